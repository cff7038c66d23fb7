"""The script behind ``make install``, up to where it would install something."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'requirements/install.py'


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location('install', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp('venv')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    return folder


def test_an_unsuitable_python_is_refused(script, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'version_info', (3, 14, 0))
    with pytest.raises(SystemExit, match='STACK=onedl needs 3.10 to 3.13'):
        script.main(str(tmp_path / 'venv'), 'onedl', 'torchvision')
    assert not (tmp_path / 'venv').exists()


@pytest.mark.parametrize(
    'stack, other', [('onedl', 'mmcv-lite'), ('openmmlab', 'onedl_mmcv')]
)
def test_the_other_stack_is_refused(script, add_distribution, stack, other):
    add_distribution(other, '2.1.0')
    with pytest.raises(SystemExit, match=f'{other.replace("_", "-")}.*STACK={stack}'):
        script.check_other_stack(stack)


def test_a_broken_environment_is_recognized(script, venv, tmp_path):
    assert script.works(Path(sys.executable))
    assert not script.works(venv / 'bin/python')  # without pip
    assert not script.works(tmp_path / 'none/bin/python')
    (tmp_path / 'python').symlink_to(tmp_path / 'removed')
    assert not script.works(tmp_path / 'python')


@pytest.mark.parametrize(
    'gpu, nvcc, force, cuda',
    [
        (True, True, '0', True),
        (True, False, '0', False),
        (False, True, '0', False),
        (False, True, '1', True),
        (False, False, '1', False),
    ],
)
def test_compiled_for(script, monkeypatch, tmp_path, gpu, nvcc, force, cuda):
    if nvcc:
        (tmp_path / 'nvcc').touch(mode=0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'none'))
    monkeypatch.setenv('FORCE_CUDA', force)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'all')
    script.set_compilation(has_gpu=gpu)
    # The rule of mmcv's setup.py, whose compilation for CUDA fails without nvcc.
    visible = gpu and os.environ['CUDA_VISIBLE_DEVICES']
    assert bool(os.environ['FORCE_CUDA'] == '1' or visible) == cuda


@pytest.mark.parametrize('reached', [True, False])
def test_pytorch_without_cuda(script, monkeypatch, tmp_path, reached):
    """Taken from PyTorch's own index if that can be reached, else not at all."""
    index = tmp_path.as_uri()
    monkeypatch.setattr(script, 'CPU_INDEX', index)
    if reached:
        (tmp_path / 'torch').touch()
    monkeypatch.delenv('TORCH', raising=False)
    assert script.torch_index() == []
    monkeypatch.setenv('TORCH', 'cpu')
    assert script.torch_index() == (['--extra-index-url', index] if reached else [])
