"""The check of the installation, run on made-up installations.

Each is a folder with packages of a few lines and their metadata, seen by a Python that
has nothing else but its standard library.
"""

import shutil
import subprocess
import sys
from pathlib import Path

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
NMS = """
def nms(boxes, scores, threshold):
    from torch import Tensor
    best = Tensor([scores.data.index(max(scores.data))])
    return RESULT
"""
MODULES = {
    'numpy': {},
    'torch': {'__init__': TORCH},
    'torchvision': {'ops': NMS.replace('RESULT', 'best')},
    'mmengine': {'runner': ''},
    'mmcv': {'ops': NMS.replace('RESULT', '0, best')},
    'mmdet': {'apis': 'print("noise")'},
    'mmseg': {'apis': ''},
    'mmpretrain': {'apis': ''},
    'ra_mm': {'layers': 'import torch', 'backbones': 'import mmpretrain'},
}


class Site:
    """A folder of packages; `fork` says which distributions provide them."""

    def __init__(self, folder, fork):
        self.folder = folder
        for module in MODULES:
            names = check_env.DISTRIBUTIONS.get(module, [module, module])
            self.write(module, MODULES[module])
            self.register(names[0 if fork else 1])
        for name in ('__init__.py', 'check_env.py'):
            shutil.copy(Path(ra_mm.__file__).parent / name, folder / 'ra_mm')

    def write(self, module, files):
        (self.folder / module).mkdir(exist_ok=True)
        for stem, code in {'__init__': '', **files}.items():
            (self.folder / module / f'{stem}.py').write_text(code)

    def register(self, distribution):
        info = self.folder / f'{distribution.replace("-", "_")}-1.2.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {distribution}\nVersion: 1.2\n')

    def remove(self, module):
        shutil.rmtree(self.folder / module)
        for name in check_env.DISTRIBUTIONS.get(module, [module]):
            for info in self.folder.glob(f'{name.replace("-", "_")}-1.2.dist-info'):
                shutil.rmtree(info)

    def check(self):
        """The output, and the problems in it."""
        code = (
            'import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); '
            'runpy.run_module("ra_mm.check_env", run_name="__main__")'
        )
        done = subprocess.run(
            [sys.executable, '-I', '-S', '-c', code, self.folder],
            capture_output=True,
            text=True,
        )
        assert done.stderr == ''
        problems = [line for line in done.stdout.splitlines() if line.startswith('- ')]
        assert done.returncode == bool(problems), done.stdout
        return done.stdout, problems


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path, fork=True)


def test_fork(site):
    output, problems = site.check()
    assert problems == []
    assert 'mmcv         1.2 (onedl-mmcv), operators run on cpu\n' in output
    assert 'no GPU' in output and 'noise' not in output


def test_originals(tmp_path):
    output, problems = Site(tmp_path, fork=False).check()
    assert problems == []
    assert 'mmseg        1.2 (mmsegmentation)\n' in output


@pytest.mark.parametrize(
    'fork, expected',
    [
        (True, ('onedl-mmcv;', '.[onedl]')),
        (False, ('mmcv-lite==2.1.0;', '.[openmmlab]')),
    ],
)
def test_the_rest_of_a_set(tmp_path, fork, expected):
    site = Site(tmp_path, fork)
    site.remove('mmcv')
    ((problem,),) = site.check()[1:]
    assert all(text in problem for text in (*expected, 'ra_mm.mmcv_ops install'))


def test_an_mmcv_that_is_there_stays(tmp_path):
    site = Site(tmp_path, fork=False)
    site.remove('mmpretrain')
    ((problem,),) = site.check()[1:]
    assert '.[openmmlab]' in problem and 'mmcv-lite' not in problem


def test_mixed_sets(site):
    site.remove('mmdet')
    site.write('mmdet', MODULES['mmdet'])
    site.register('mmdet')
    ((problem,),) = site.check()[1:]
    assert 'onedl-mmcv' in problem and 'mmdet (the originals)' in problem


def test_stand_in(site):
    site.write('mmcv', {**MODULES['mmcv'], '_ext': ''})
    output, problems = site.check()
    assert problems == []
    assert "(onedl-mmcv), torchvision's operators (a stand-in) run on cpu\n" in output


def test_gpu(site):
    site.write('torch', {'__init__': TORCH.replace('GPUS = 0', 'GPUS = 2')})
    output, problems = site.check()
    assert problems == []
    assert 'operators run on cpu and cuda' in output and 'GPU 0, GPU 1' in output


@pytest.mark.parametrize('module', [name for name in MODULES if name != 'ra_mm'])
def test_one_missing(site, module):
    site.remove(module)
    output, problems = site.check()
    assert f'{module:13}not installed' in output
    if module in check_env.OPTIONAL:
        assert problems == []
    else:
        (problem,) = problems  # the packages that need it add nothing
        assert module in problem


def test_torch_alone(site):
    for module in ('numpy', 'torchvision', *check_env.DISTRIBUTIONS):
        site.remove(module)
    output, problems = site.check()
    assert problems == []
    assert 'ra_mm        1.2, ' in output  # ra_mm.layers was imported
    assert '.[onedl]' in output
    site.remove('torch')
    assert 'torch' in site.check()[1][0]


def test_two_distributions_of_one_package(site):
    site.register('mmcv')
    _, problems = site.check()
    assert len(problems) == 1
    assert 'pip uninstall onedl-mmcv mmcv' in problems[0]


def test_folder_without_metadata(site):
    shutil.rmtree(site.folder / 'onedl_mmcv-1.2.dist-info')
    output, problems = site.check()
    assert problems == []
    assert f'unknown version in {site.folder / "mmcv"}' in output


@pytest.mark.parametrize(
    'error, advice',
    [
        ("ModuleNotFoundError: No module named 'mmcv._ext'", 'mmcv_ops install'),
        ("ModuleNotFoundError: No module named 'pkg_resources'", 'setuptools<82'),
        (
            'RuntimeError: CUDA error: no kernel image is available',
            'TORCH_CUDA_ARCH_LIST',
        ),
        (
            'ImportError: libGL.so.1: cannot open shared object file',
            'opencv-python-headless',
        ),
        (
            "ImportError: libstdc++.so.6: version `GLIBCXX_3.4.29' not found",
            'libstdcxx-ng',
        ),
        (
            'ImportError: libcudart.so.11.0: cannot open shared object file',
            'another torch',
        ),
        ('ImportError: _ext.so: undefined symbol: _ZN3c10', 'another torch or CUDA'),
        ('RuntimeError: nms_impl: implementation for device cuda:0 not found', 'wheel'),
        ("ModuleNotFoundError: No module named 'addict'", 'pip install'),
        ('SystemExit: 3', 'SystemExit: 3'),
    ],
)
def test_advice(site, error, advice):
    kind, text = error.split(': ', 1)
    site.write('mmcv', {'ops': f'raise {kind}({text!r})'})
    output, problems = site.check()
    assert len(problems) == 1
    assert 'mmcv does not work' in problems[0] and advice in problems[0]
    assert 'mmdet        1.2 (onedl-mmdetection), not tried: needs mmcv' in output


def test_wrong_result(site):
    site.write('mmcv', {'ops': NMS.replace('RESULT', '0, Tensor([0, 1])')})
    assert 'keeps the boxes [0, 1]' in site.check()[1][0]


def test_torchvision_of_another_torch(site):
    error = 'operator torchvision::nms does not exist'
    site.write('torchvision', {'ops': f'raise RuntimeError({error!r})'})
    _, problems = site.check()
    assert len(problems) == 1
    assert 'https://pytorch.org/get-started' in problems[0]


def test_torch_of_another_numpy(site):
    error = 'raise RuntimeError("Numpy is not available")'
    site.write('torch', {'__init__': TORCH.replace('import numpy', error)})
    _, problems = site.check()
    assert len(problems) == 1
    assert 'torch was compiled for another major version of numpy' in problems[0]


def test_toolboxes_are_tried_independently(site):
    site.write('mmdet', {'apis': 'import pycocotools'})
    site.write('mmseg', {'apis': 'import ftfy'})
    output, problems = site.check()
    assert 'pycocotools' in problems[0] and 'ftfy' in problems[1]
    assert 'mmpretrain   1.2 (onedl-mmpretrain)\n' in output


def test_importing_ra_mm_imports_nothing_else():
    code = (
        'import sys; before = set(sys.modules); import ra_mm; '
        'print(*set(sys.modules) - before)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['ra_mm']
