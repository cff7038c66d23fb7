"""Spoilt checkpoints: one error that names the file, and no code is run."""

import builtins
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from ra_mm.engine.checkpoint_io import read_checkpoint, read_state_dict
from ra_mm.errors import UserError

TENSOR = torch.ones(2)
TRACE = 'code-was-run'  # a file that code in a checkpoint would leave


def content():
    return dict(
        state_dict={'backbone.weight': torch.ones(2, 2), 'bn.mean': torch.ones(2)},
        meta=dict(epoch=1),
        message_hub=dict(x=1),
        optimizer=dict(state={}),
    )


def saved(what, **kwargs):
    file = io.BytesIO()
    torch.save(what, file, **kwargs)
    return file.getvalue()


pytestmark = pytest.mark.usefixtures('reader')


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Write a file that cannot be read, and return the error."""
    monkeypatch.chdir(tmp_path)  # where code would leave its trace

    def refused(data, read=read_state_dict):
        path = tmp_path / 'bad.pth'
        path.write_bytes(data)
        with pytest.raises(UserError) as e:
            read(str(path))
        assert str(path) in str(e.value)
        return str(e.value)

    return refused


# Files


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as z:
        for name, data in members.items():
            z.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize('name', ['none.pth', ''])
def test_no_file(tmp_path, name):
    with pytest.raises(UserError, match=str(tmp_path / name)):
        read_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize('text', ['<!DOCTYPE html><html>', 'version https://git-lfs'])
def test_a_text_in_its_place(refused, text):
    assert f'is a text, {text.encode().split()}' in refused(text.encode())


@pytest.mark.parametrize('length', [0, 100, 0.5, -22, -1])
def test_truncated(refused, length):
    data = saved(content())
    end = int(length * len(data)) if isinstance(length, float) else length
    assert 'truncated' in refused(data[:end])


@pytest.mark.parametrize(
    'data',
    [
        b'no weights in here',
        bytes(10**4),
        b'\x93NUMPY\x01\x00v\x00' + bytes(100),
        zipped(),
        zipped(**{'archive/data.pkl': b'rubbish'}),
        zipped(**{'archive/data.pkl': pickle.dumps({})}),
        pickle.dumps(list(range(100)))[:50],
    ],
    ids=['text', 'zeros', 'NumPy', 'zip', 'zip of rubbish', 'zip of a pickle', 'half'],
)
def test_other_file(refused, data):
    assert '\n' not in refused(data)


@pytest.mark.parametrize(
    'value, reason',
    [
        (torch.tensor(float('nan')), 'diverged'),
        (torch.eye(2).to_sparse(), 'dense'),
        (torch.ones(2, device='meta'), 'dense'),
    ],
)
def test_weights_without_numbers(refused, value, reason):
    message = refused(saved({'state_dict': {'bn.weight': value}}))
    assert 'bn.weight' in message and reason in message


# Code


class Runs:
    """Unpickled, it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Ours:
    """Unpickled, it leaves its trace."""

    def __init__(self):
        self.a = 1

    def __setstate__(self, state):
        Path(TRACE).touch()


CODE = {
    'os.system': Runs(os.system, f'touch {TRACE}'),
    'eval': Runs(builtins.eval, f'open({TRACE!r}, "w")'),
    'Popen': Runs(subprocess.Popen, ['touch', TRACE]),
    'numpy.save': Runs(np.save, TRACE, 1),
    'class': Ours(),
}


@pytest.mark.parametrize('name', CODE)
def test_code_is_not_run(refused, tmp_path, name):
    spoilt = content()
    spoilt['meta']['x'] = [CODE[name]]
    assert 'may run code' in refused(saved(spoilt))
    # In files of the older kinds
    refused(saved(CODE[name], _use_new_zipfile_serialization=False))
    refused(pickle.dumps(CODE[name]))
    assert not list(tmp_path.glob(f'{TRACE}*'))


@pytest.mark.parametrize(
    'owner, name',
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, 'register_statistics'),
        (getattr, '__self__'),
        (torch.Tensor, 'numpy'),
    ],
    ids=str,
)
def test_getattr_does_not_lead_to_other_functions(refused, owner, name):
    """The pickles of a run use it, for methods of mmengine's records."""
    assert 'may run code' in refused(saved(dict(x=Runs(getattr, owner, name))))


@pytest.mark.parametrize('call', [b'', b')R'], ids=['not called', 'called'])
def test_result_of_getattr_is_not_called(refused, tmp_path, call):
    """A method that getattr has returned, and REDUCE without arguments."""
    method = pickle.dumps(Runs(getattr, HistoryBuffer, 'mean'), 2)[2:-1]
    source = zipfile.ZipFile(io.BytesIO(saved({})))
    entries = {name: source.read(name) for name in source.namelist()}
    entries[next(iter(entries))] = b'\x80\x02}X\1\0\0\0x' + method + call + b's.'
    if call:
        assert 'may run code' in refused(zipped(**entries))
    else:
        path = tmp_path / 'good.pth'
        path.write_bytes(zipped(**entries))
        assert read_checkpoint(str(path)) == dict(x=HistoryBuffer.mean)


def test_code_above_would_run(tmp_path, monkeypatch):
    for name, code in CODE.items():
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        result = pickle.loads(pickle.dumps(code))
        if name == 'Popen':
            result.wait()
        assert list(folder.iterdir()), name


def test_downloaded_code_is_not_run(tmp_path, monkeypatch):
    """mmengine would run what it has downloaded before."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'hub/checkpoints'
    folder.mkdir(parents=True)
    (folder / 'bad.pth').write_bytes(saved(CODE['os.system']))
    with pytest.raises(UserError, match='http://127.0.0.1:9/bad.pth'):
        read_state_dict('http://127.0.0.1:9/bad.pth')
    assert not (tmp_path / TRACE).exists()


# Contents


@pytest.mark.parametrize(
    'what, kind',
    [(None, 'NoneType'), (5, 'int'), ([TENSOR], 'list'), (TENSOR, 'Tensor')],
    ids=['None', 'int', 'list', 'tensor'],
)
def test_not_a_dict(refused, what, kind):
    assert kind in refused(saved(what))


@pytest.mark.parametrize(
    'weights',
    [
        {},
        {1: TENSOR},
        {'a': 1},
        {'a': TENSOR, 'iteration': 3},
        {'state_dict': {}},
        {'state_dict': {'a': TENSOR, 'b': 'c'}},
    ],
    ids=str,
)
def test_no_weights(refused, weights):
    assert 'no weights' in refused(saved(weights))


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('key', ['backbone.weight', 'bn.mean'])
def test_diverged(refused, tmp_path, key, value):
    spoilt = content()
    spoilt['state_dict'][key].view(-1)[-1] = value
    if key == 'backbone.weight' or value != value:
        assert key in refused(saved(spoilt))
    else:  # as a mask has it
        (tmp_path / 'mask.pth').write_bytes(saved(spoilt))
        read_state_dict(str(tmp_path / 'mask.pth'))
