"""The check of the installation, with the installed torch and made-up distributions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision

import ra_mm
from ra_mm import check_env

FORK = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmseg': 'onedl-mmsegmentation',
    'mmpretrain': 'onedl-mmpretrain',
}
ORIGINALS = {name: name for name in FORK} | {'mmcv': 'mmcv-lite'}


@pytest.fixture
def problems(add_distribution):
    """The problems of an environment with these packages of OpenMMLab."""

    def check(*providers):
        for packages in providers:
            for package, name in packages.items():
                add_distribution(name, '1.2', package)
        return check_env.check_distributions(check_env.find_distributions())

    return check


def without(packages, *missing):
    return {k: v for k, v in packages.items() if k not in missing}


@pytest.mark.parametrize(
    'packages', [FORK, ORIGINALS, without(FORK, *check_env.OPTIONAL), {}], ids=len
)
def test_complete(problems, packages):
    assert problems(packages) == []


@pytest.mark.parametrize('missing', ['mmengine', 'mmcv', 'mmpretrain'])
def test_one_missing(problems, missing):
    (problem,) = problems(without(FORK, missing))
    assert missing in problem and 'make install' in problem


def test_two_distributions_of_one_package(problems):
    (problem,) = problems(FORK, {'mmcv': 'mmcv'})
    assert 'pip uninstall mmcv onedl-mmcv' in problem


def test_mixed_sets(problems):
    (problem,) = problems(without(FORK, 'mmdet'), {'mmdet': 'mmdet'})
    assert 'onedl-*' in problem and 'original mmdet ' in problem


def test_an_nms_that_keeps_the_wrong_boxes(monkeypatch):
    monkeypatch.setattr(torchvision.ops, 'nms', lambda boxes, *args: boxes[:, 0])
    with pytest.raises(RuntimeError, match='nms on cpu'):
        check_env.try_package('torchvision', {'torch'})


def test_a_package_that_fails(tmp_path):
    (tmp_path / 'mmengine').mkdir()
    code = 'print("noise"); raise ImportError("its reason")'
    (tmp_path / 'mmengine/__init__.py').write_text(code)
    paths = f'{tmp_path}{os.pathsep}{Path(ra_mm.__file__).parents[1]}'
    done = subprocess.run(
        [sys.executable, '-m', 'ra_mm.check_env'],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': paths},
    )
    assert done.returncode == 1
    assert '\n- mmengine: ImportError: its reason' in done.stdout
    assert 'not tried: needs mmengine' in done.stdout and 'noise' not in done.stdout
    assert '\nra_mm ' in done.stdout and 'pip check ' in done.stdout


def test_importing_ra_mm_imports_nothing_else():
    code = (
        'import sys; before = set(sys.modules); import ra_mm; '
        'print(*set(sys.modules) - before)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['ra_mm']
