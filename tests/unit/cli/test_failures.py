"""How tools end: the message, the status and the file of the traceback."""

import tempfile
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from ra_mm.cli import report_user_errors
from ra_mm.errors import UserError, translate_errors


def end(capsys, error, work_dir=None):
    """The status, the message and the file of the traceback."""
    with pytest.raises(SystemExit) as stop, report_user_errors('a_tool') as run:
        run.work_dir = work_dir
        raise error
    message, _, path = capsys.readouterr().err.strip().partition('\n(traceback in ')
    return stop.value.code, message, Path(path.removesuffix(')'))


def test_user_error(capsys, tmp_path):
    error = UserError('bad=1')
    error.__cause__ = ZeroDivisionError('its cause')
    status, message, path = end(capsys, error, str(tmp_path))
    assert status == 1
    assert message == 'a_tool: error: bad=1'
    assert path.parent == tmp_path
    assert 'Traceback' in path.read_text()
    assert 'its cause' in path.read_text()


@pytest.mark.parametrize('work_dir', [None, 'none', 'full'])
def test_no_work_dir(capsys, tmp_path, monkeypatch, work_dir):
    """The folder is not created; the traceback is written elsewhere."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    make = tempfile.NamedTemporaryFile

    def full(*args, dir=None, **kwargs):
        if dir and dir.endswith('full'):
            raise OSError(28, 'No space left on device')
        return make(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, 'NamedTemporaryFile', full)
    folder = work_dir and str(tmp_path / work_dir)
    status, _, path = end(capsys, UserError('bad=1'), folder)
    assert status == 1
    assert path.parent == tmp_path
    assert list(tmp_path.iterdir()) == [path]


def test_process(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('RANK', '3')
    _, message, _ = end(capsys, UserError('bad=1'), str(tmp_path))
    assert message == 'a_tool (process 3): error: bad=1'


def test_interrupted(capsys):
    assert end(capsys, KeyboardInterrupt())[:2] == (130, 'a_tool: interrupted')


@pytest.mark.parametrize('kind', [SyntaxError, UserError])
@pytest.mark.parametrize('link', ['__context__', '__cause__'])
def test_interrupt_that_a_library_replaces(capsys, kind, link):
    error, middle = kind('cannot be formatted'), RuntimeError()
    setattr(error, link, middle)
    setattr(middle, link, KeyboardInterrupt())
    assert end(capsys, error)[:2] == (130, 'a_tool: interrupted')


def test_bug_with_a_circular_chain():
    """It propagates."""
    error, cause = ValueError('a bug'), ValueError('its cause')
    error.__cause__, cause.__cause__ = cause, error
    with pytest.raises(ValueError) as e, report_user_errors('a_tool'):
        raise error
    assert e.value is error


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, i):
        with translate_errors('a.png cannot be loaded'):
            raise ValueError('it is empty')


def test_error_in_a_worker(capsys, tmp_path):
    """The message is the one of the worker, without its traceback."""
    with pytest.raises(UserError) as e:
        next(iter(DataLoader(Broken(), num_workers=1)))
    _, message, path = end(capsys, e.value, str(tmp_path))
    assert message == 'a_tool: error: a.png cannot be loaded: it is empty'
    assert '__getitem__' in path.read_text()
