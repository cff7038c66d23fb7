"""The wheel that `pip install .` builds, and the installation that the tests run in."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import ra_mm

PACKAGE = Path(ra_mm.__file__).parent
REPO = PACKAGE.parent
TO_BUILD = ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE')
FOR_MIM = ('configs', 'tools', 'model-index.yml')


def files(folder):
    return {
        path.relative_to(folder)
        for path in folder.rglob('*')
        if path.is_file() and path.suffix != '.pyc'
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of what a clone has, without build/ and egg-info."""
    if int(metadata.version('setuptools').split('.')[0]) < 77:
        pytest.skip('building needs setuptools 77, and openmim installs 60')
    folder = tmp_path_factory.mktemp('source')
    ignore = shutil.ignore_patterns('__pycache__')
    for name in (*TO_BUILD, *FOR_MIM, 'ra_mm'):
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, folder / name, ignore=ignore)
        else:
            shutil.copy(REPO / name, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    """The unpacked wheel, as `pip install` would unpack it."""
    folder = tmp_path_factory.mktemp('wheel')
    # It must not depend on the folder that pip is called in.
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', source, '--wheel-dir', folder]
        + ['--no-deps', '--no-index', '--no-build-isolation'],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    (path,) = folder.glob(f'ra_mm-{ra_mm.__version__}-*.whl')
    zipfile.ZipFile(path).extractall(folder / 'unpacked')
    return folder / 'unpacked'


def run_in_wheel(wheel, tmp_path, *args):
    done = subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(wheel)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_has_all_of_the_package(wheel):
    assert files(wheel / 'ra_mm') >= files(PACKAGE)
    assert Path('py.typed') in files(wheel / 'ra_mm')


@pytest.mark.parametrize(
    'folder', ['ra_mm/.mim', f'ra_mm-{ra_mm.__version__}.dist-info/.mim']
)
def test_wheel_has_what_mim_needs(wheel, folder):
    """In the package, and where onedl-mim looks for it, see setup.py."""
    assert {path.name for path in (wheel / folder).iterdir()} == {*FOR_MIM}
    for name in ('configs', 'tools'):
        expected = files(REPO / name) - {Path('benchmark.py')}  # needs a clone
        assert files(wheel / folder / name) == expected
    assert not (wheel / 'benchmarks').exists()


def test_wheel_can_be_imported(wheel, tmp_path):
    code = 'import ra_mm.layers; print(ra_mm.layers.__file__)'
    out = run_in_wheel(wheel, tmp_path, '-c', code)
    assert Path(out.strip()) == wheel / 'ra_mm/layers/__init__.py'


def test_rows_of_the_paper_are_found_in_the_wheel(wheel, tmp_path):
    code = 'from ra_mm.reproduce import paper; print(paper.rows(4)[0].config)'
    out = run_in_wheel(wheel, tmp_path, '-c', code)
    assert Path(out.strip()).is_relative_to(wheel / 'ra_mm/.mim/configs')


def test_model_of_a_config_in_the_wheel(wheel, tmp_path):
    mim = wheel / 'ra_mm/.mim'
    config = mim / 'configs/imagenet/ra_r18.py'
    out = run_in_wheel(wheel, tmp_path, mim / 'tools/get_flops.py', config)
    assert float(re.search(r'^model +([\d.]+)', out, re.M)[1]) == 11.691


def test_wheel_from_the_source_archive(source, tmp_path):
    """It has all that the wheel's build copies."""
    code = 'import setuptools.build_meta as b, sys; b.build_sdist(sys.argv[1])'
    subprocess.run(
        [sys.executable, '-c', code, str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=source,
    )
    (archive,) = tmp_path.glob('*.tar.gz')
    shutil.unpack_archive(archive, tmp_path)
    unpacked = tmp_path / f'ra_mm-{ra_mm.__version__}'
    assert files(unpacked / 'ra_mm') >= files(PACKAGE)
    for name in ('configs', 'tools'):
        assert files(unpacked / name) == files(REPO / name)
    assert {*TO_BUILD, *FOR_MIM} <= {path.name for path in unpacked.iterdir()}


def test_check_env():
    done = subprocess.run(
        [sys.executable, '-m', 'ra_mm.check_env'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert f'torch        {metadata.version("torch")}' in done.stdout
