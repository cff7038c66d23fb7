"""Writing the stand-in for mmcv's operators into mmcv, and deleting it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ra_mm import mmcv_ops
from ra_mm.errors import UserError

OLDER = '# Written by ra_mm 0.0.1, not part of mmcv.\ndef nms(): ...\n'
COMPILED = '_ext.cpython-311-x86_64-linux-gnu.so'


@pytest.fixture(params=[('onedl-mmcv', '2.3.6'), ('mmcv-lite', '2.1.0')])
def folder(add_distribution, request):
    """An mmcv without operators, of the fork or of the originals."""
    return add_distribution(*request.param)


def listing(folder):
    return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_install_and_remove(folder):
    before = listing(folder)
    assert 'no operators' in mmcv_ops.status()
    for _ in range(2):
        assert str(folder / '_ext.py') in mmcv_ops.install()
    assert 'the stand-in' in mmcv_ops.status()
    assert 'renews it' not in mmcv_ops.status()
    assert str(folder / '_ext.py') in mmcv_ops.remove()
    assert listing(folder) == before


def test_what_is_installed_works_without_ra_mm(folder):
    mmcv_ops.install()
    (folder / '__init__.py').write_text('')
    code = (
        f'import sys; sys.path.insert(0, {str(folder.parent)!r})\n'
        'sys.modules["ra_mm"] = None\n'
        'import torch; from mmcv import _ext\n'
        'print(_ext.nms(torch.zeros(3, 4), torch.ones(3), 0.5, 0).tolist())\n'
        'assert hasattr(_ext, "carafe_forward") and not hasattr(_ext, "__path__")'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == '[0, 1, 2]\n', done.stderr


def test_the_single_module_of_older_versions_is_renewed(folder):
    (folder / '_ext.py').write_text(OLDER)
    assert 'renews it' in mmcv_ops.status()
    mmcv_ops.install()
    assert 'renews it' not in mmcv_ops.status()


def test_an_interrupted_installation_is_completed(folder):
    mmcv_ops.install()
    complete = listing(folder)
    (folder / '_torchvision_ops/roi.py').unlink()
    assert 'renews it' in mmcv_ops.status()
    mmcv_ops.install()
    assert listing(folder) == complete


def test_the_stand_in_of_an_uninstalled_mmcv_can_be_removed(folder):
    (folder / '_ext.py').write_text(OLDER)
    (folder / '__init__.py').unlink()
    mmcv_ops.remove()
    assert listing(folder) == {}


def refuse(run, folder, match):
    """The call is refused, and changes no file."""
    before = listing(folder)
    with pytest.raises(UserError, match=match):
        run()
    assert listing(folder) == before


@pytest.mark.parametrize('run', [mmcv_ops.install, mmcv_ops.remove])
def test_a_file_of_somebody_else_stays(folder, run):
    (folder / '_ext.py').write_text('# mine')
    refuse(run, folder, r'_ext\.py is not from ra_mm')
    assert 'not from ra_mm' in mmcv_ops.status()


def test_compiled_operators_stay(folder):
    (folder / COMPILED).touch()
    refuse(mmcv_ops.install, folder, '_ext.cpython-311.*compiled operators')
    assert 'compiled operators' in mmcv_ops.status()


@pytest.mark.parametrize(
    'distributions, named',
    [
        ([('mmcv-full', '1.7.2')], 'mmcv-full 1.7.2'),
        ([('mmcv', '2.0.1')], 'mmcv 2.0.1'),
        ([('onedl-mmcv', '2.4.0')], 'onedl-mmcv 2.4.0'),
        ([('onedl-mmcv', '2.3.6'), ('mmcv', '2.1.0')], 'mmcv and onedl-mmcv'),
    ],
    ids=str,
)
def test_an_mmcv_that_does_not_fit(add_distribution, distributions, named):
    folder = [add_distribution(*each) for each in distributions][0]
    refuse(mmcv_ops.install, folder, named)


def test_nothing_to_remove(folder):
    with pytest.raises(UserError, match=r'_ext\.py does not exist'):
        mmcv_ops.remove()


@pytest.mark.parametrize('run', [mmcv_ops.install, mmcv_ops.remove, mmcv_ops.status])
def test_no_mmcv(monkeypatch, tmp_path, run):
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'mmcv', raising=False)
    with pytest.raises(UserError, match='mmcv is not installed'):
        run()


def test_no_torchvision(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    refuse(mmcv_ops.install, folder, 'torchvision.*pip install')


def test_mistakes_end_in_one_message(folder):
    (folder / '_ext.py').write_text('# mine')
    repo = Path(mmcv_ops.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, '-m', 'ra_mm.mmcv_ops', 'remove'],
        capture_output=True,
        text=True,
        env={'PYTHONPATH': f'{folder.parent}:{repo}'},
    )
    assert done.returncode == 1 and done.stdout == ''
    assert len(done.stderr.splitlines()) == 1 and '_ext.py' in done.stderr
