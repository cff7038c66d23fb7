"""The check of the installation, run on made-up installations.

Each is a folder with packages of a few lines and their real metadata files,
seen by a Python that sees nothing else but its standard library.
"""

import shutil
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import packaging
import pytest

import ra_mm
from ra_mm import check_env

TORCH = """
class Tensor:

    def __init__(self, data):
        self.data = data

    def numpy(self):
        import numpy

    def tolist(self):
        return self.data


def tensor(data, device):
    return Tensor(data)


def zeros(size):
    return Tensor([0] * size)


class version:
    cuda = '12.8'


class cuda:
    device_count = staticmethod(lambda: GPUS)
    is_available = staticmethod(lambda: GPUS > 0)
    get_device_name = staticmethod(lambda i: f'GPU {i}')


GPUS = 0
"""
# Keeps the best box alone.
NMS = """
def nms(boxes, scores, threshold):
    from torch import Tensor
    best = Tensor([scores.data.index(max(scores.data))])
    return RESULT
"""
# Distribution, version, import name, its files and what it requires.
SOUND = [
    ('numpy', '2.2.6', 'numpy', {}, []),
    ('torch', '2.10.0+cu128', 'torch', {'__init__': TORCH}, []),
    (
        'torchvision',
        '0.25.0',
        'torchvision',
        {'ops': NMS.replace('RESULT', 'best')},
        ['numpy', 'torch (==2.10.0)'],
    ),
    ('onedl-mmengine', '0.10.12', 'mmengine', {'runner': ''}, ['numpy']),
    (
        'onedl-mmcv',
        '2.3.6',
        'mmcv',
        {'ops': NMS.replace('RESULT', '0, best')},
        ['numpy', 'onedl-mmengine>=0.10.8rc1', 'absent; extra == "docs"'],
    ),
    ('onedl-mmdetection', '3.5.1', 'mmdet', {'apis': 'print("noise")'}, []),
    ('onedl-mmsegmentation', '1.4.2', 'mmseg', {'apis': ''}, ['numpy>2']),
    ('onedl-mmpretrain', '1.3.6', 'mmpretrain', {'apis': ''}, []),
    (
        'ra_mm',
        '0.1.0',
        'ra_mm',
        {'backbones': 'import mmpretrain'},
        metadata.requires('ra_mm'),
    ),
]


class Site:
    """A folder of packages."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, name, version, module, files, requires):
        package = self.folder / module
        package.mkdir(exist_ok=True, parents=True)
        for stem, code in {'__init__': '', **files}.items():
            (package / f'{stem}.py').write_text(code)
        info = self.folder / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'top_level.txt').write_text(module + '\n')
        (info / 'METADATA').write_text(
            '\n'.join(
                [
                    'Metadata-Version: 2.1',
                    f'Name: {name}',
                    f'Version: {version}',
                    'Requires-Python: >=3.10',
                    *(f'Requires-Dist: {need}' for need in requires),
                    '',
                ]
            )
        )

    def uninstall(self, name):
        (info,) = self.folder.glob(f'{name.replace("-", "_")}-*.dist-info')
        shutil.rmtree(self.folder / (info / 'top_level.txt').read_text()[:-1])
        shutil.rmtree(info)

    def replace(self, old, **changes):
        self.uninstall(old)
        keys = ('name', 'version', 'module', 'files', 'requires')
        (args,) = (dict(zip(keys, args)) for args in SOUND if args[0] == old)
        self.install(**args | changes)

    def check(self):
        """Exit status, output, and the problems in it."""
        done = subprocess.run(
            [
                sys.executable,
                '-S',
                '-c',
                'import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); '
                'runpy.run_module("ra_mm.check_env", run_name="__main__")',
                self.folder,
            ],
            capture_output=True,
            text=True,
        )
        assert done.stderr == ''
        problems = [line for line in done.stdout.splitlines() if line.startswith('- ')]
        assert done.returncode == bool(problems), done.stdout
        return done.stdout, problems


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    for args in SOUND:
        site.install(*args)
    here = Path(ra_mm.__file__).parent
    for name in ('__init__.py', 'check_env.py'):
        shutil.copy(here / name, tmp_path / 'ra_mm')
    shutil.copytree(Path(packaging.__file__).parent, tmp_path / 'packaging')
    return site


def test_sound(site):
    output, problems = site.check()
    assert problems == []
    assert 'Nothing is wrong.' in output
    assert 'mmcv         2.3.6 (onedl-mmcv), operators run on cpu' in output
    assert 'no GPU' in output
    assert 'noise' not in output


def test_gpu(site):
    site.replace('torch', files={'__init__': TORCH.replace('GPUS = 0', 'GPUS = 2')})
    output, problems = site.check()
    assert problems == []
    assert 'operators run on cpu and cuda' in output
    assert 'GPU 0, GPU 1' in output


MISSING = [args[0] for args in SOUND if args[0] not in ('numpy', 'torch', 'ra_mm')]


@pytest.mark.parametrize('name', MISSING)
def test_missing(site, name):
    site.uninstall(name)
    (module,) = (args[2] for args in SOUND if args[0] == name)
    output, problems = site.check()
    assert len(problems) == 1  # what needs it does not add to the list
    assert f'not installed: {module}: ' in problems[0]
    assert f'{module:13}not installed' in output
    assert ('not tried' in output) == (module in check_env.NEEDED)


def test_nothing_installed(site):
    for args in SOUND[:-1]:
        site.uninstall(args[0])
    _, problems = site.check()
    assert len(problems) == 2
    assert 'not installed: numpy, torch, torchvision: pip inst' in problems[0]
    assert 'mmengine, mmcv, mmdet, mmseg, mmpretrain: in ra_mm' in problems[1]


def test_no_packaging(site):
    shutil.rmtree(site.folder / 'packaging')
    _, problems = site.check()
    assert len(problems) == 1
    assert problems[0].endswith('pip install packaging')


def test_only_a_folder(site):
    """Left behind by pip, or in the folder where Python was started."""
    (info,) = site.folder.glob('onedl_mmcv-*')
    shutil.rmtree(info)
    _, problems = site.check()
    assert len(problems) == 1
    assert str(site.folder / 'mmcv') in problems[0]


def test_mixed(site):
    site.install('mmcv', '2.1.0', 'mmcv', {'ops': 'import absent'}, [])
    output, problems = site.check()
    assert 'mmcv is installed twice' in problems[0]
    assert 'pip uninstall mmcv onedl-mmcv' in problems[0]
    assert '2.1.0 and 2.3.6 (onedl-mmcv) FAILS' in output


def test_an_original_among_the_fork(site):
    site.uninstall('onedl-mmdetection')
    site.install('mmdet', '3.3.0', 'mmdet', {'apis': ''}, [])
    _, problems = site.check()
    assert len(problems) == 1
    assert '- mmdet 3.3.0: ra_mm does not run on these' in problems[0]
    assert 'pip uninstall mmdet, then in ra_mm' in problems[0]


def test_originals(site):
    for args, (name, version) in zip(
        SOUND[3:8],
        [
            ('mmengine', '0.10.7'),
            ('mmcv', '2.1.0'),
            ('mmdet', '3.3.0'),
            ('mmsegmentation', '1.2.2'),
            ('mmpretrain', '1.2.0'),
        ],
    ):
        site.uninstall(args[0])
        site.install(name, version, *args[2:4], [])
    _, problems = site.check()
    assert len(problems) == 1
    assert 'mmcv 2.1.0' in problems[0] and 'mmsegmentation 1.2' in problems[0]
    assert (
        'pip uninstall mmengine mmcv mmdet mmsegmentation mmpretrain, then'
        in problems[0]
    )


def test_unknown_distribution(site):
    site.replace('onedl-mmcv', name='mmcv-lite')
    _, problems = site.check()
    assert len(problems) == 1
    assert 'mmcv-lite 2.3.6: ra_mm does not run' in problems[0]


@pytest.mark.parametrize(
    'name, version',
    [('onedl-mmcv', '2.2.0'), ('onedl-mmcv', '2.4.0'), ('onedl-mmpretrain', '1.4.0')],
)
def test_untried_version(site, name, version):
    site.replace(name, version=version)
    _, problems = site.check()
    assert len(problems) == 1
    assert f'{name} {version} has not been tried' in problems[0]


def test_python(site):
    text = (site.folder / 'ra_mm-0.1.0.dist-info/METADATA').read_text()
    (site.folder / 'ra_mm-0.1.0.dist-info/METADATA').write_text(
        text.replace('>=3.10', '<3.10')
    )
    _, problems = site.check()
    assert len(problems) == 1
    assert 'ra_mm needs <3.10' in problems[0]


def test_torchvision_of_another_torch(site):
    site.replace('torch', version='2.9.1+cu128')
    site.replace(
        'torchvision',
        files={'ops': 'raise RuntimeError("operator torchvision::nms does not exist")'},
    )
    output, problems = site.check()
    assert len(problems) == 2
    assert (
        'torchvision 0.25.0 needs torch==2.10.0 and does not fit torch 2.9.1+cu128'
    ) in problems[0]
    assert 'install the two together' in problems[1]
    assert 'mmcv         2.3.6 (onedl-mmcv) (not tried' in output


def test_numpy_too_old_for_a_package(site):
    site.replace('numpy', version='1.26.4')
    _, problems = site.check()
    assert len(problems) == 1
    assert 'onedl-mmsegmentation 1.4.2 needs numpy>2' in problems[0]


def test_torch_of_another_numpy(site):
    site.replace(
        'torch',
        files={
            '__init__': TORCH.replace(
                'import numpy', 'raise RuntimeError("Numpy is not available")'
            )
        },
    )
    _, problems = site.check()
    assert len(problems) == 1
    assert 'torch was compiled for another numpy' in problems[0]


@pytest.mark.parametrize(
    'ops, advice',
    [
        (
            'import mmcv._ext',
            'pip install --no-build-isolation --no-cache-dir '
            '--force-reinstall --no-deps onedl-mmcv',
        ),
        (
            'raise ImportError("_ext.so: undefined symbol: _ZN3c10")',
            'onedl-mmcv was compiled for another torch or CUDA',
        ),
        (
            'raise ImportError("libcudart.so.11.0: cannot open shared object file")',
            'onedl-mmcv was compiled for another torch or CUDA',
        ),
        ('import addict', 'a package that onedl-mmcv needs is missing'),
        ('raise AssertionError', 'AssertionError: no message'),
        ('raise SystemExit(3)', 'SystemExit: 3'),
        (NMS.replace('RESULT', '0, Tensor([0, 1])'), 'keeps the boxes [0, 1]'),
    ],
)
def test_mmcv_does_not_work(site, ops, advice):
    site.replace('onedl-mmcv', files={'ops': ops})
    output, problems = site.check()
    assert len(problems) == 1
    assert 'mmcv does not work' in problems[0] and advice in problems[0]
    assert 'mmdet        3.5.1 (onedl-mmdetection) (not tried' in output


def test_mmcv_without_cuda(site):
    site.replace('torch', files={'__init__': TORCH.replace('GPUS = 0', 'GPUS = 1')})
    site.replace(
        'onedl-mmcv',
        files={
            'ops': 'calls = []\n\n\ndef nms(boxes, scores, threshold):\n'
            '    calls.append(0)\n    if len(calls) > 1:\n        raise '
            'RuntimeError("nms_impl: implementation for device cuda:0 not '
            'found.")\n    return 0, type(boxes)([1])\n'
        },
    )
    _, problems = site.check()
    assert len(problems) == 1
    assert 'mmcv was built without CUDA operators' in problems[0]


def test_a_toolbox_does_not_work(site):
    """The others are tried all the same."""
    site.replace('onedl-mmdetection', files={'apis': 'import pycocotools'})
    site.replace('onedl-mmsegmentation', files={'apis': 'import ftfy'})
    _, problems = site.check()
    assert len(problems) == 2
    assert (
        'mmdet does not work (ModuleNotFoundError: No module named '
        "'pycocotools')" in problems[0]
    )
    assert 'pip install --no-build-isolation onedl-mmsegmentation' in problems[1]


def test_this_installation():
    """The one that the tests run in."""
    done = subprocess.run(
        [sys.executable, '-m', 'ra_mm.check_env'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    for name in ('torch', 'numpy', 'torchvision'):
        assert f'{name:13}{metadata.version(name)}' in done.stdout
    assert ra_mm.__version__ in done.stdout


def test_importing_ra_mm_imports_nothing():
    code = (
        'import sys; before = set(sys.modules); import ra_mm; '
        'print(*set(sys.modules) - before)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['ra_mm']


def test_an_import_that_fails_names_this_check(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmengine.runner.checkpoint', None)
    monkeypatch.delitem(sys.modules, 'ra_mm.utils', raising=False)
    with pytest.raises(ImportError, match='python -m ra_mm.check_env'):
        import_module('ra_mm.utils')
