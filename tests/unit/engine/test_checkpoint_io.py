"""Reading checkpoints, and finding the latest one."""

import os
import re
import subprocess
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from ra_mm.engine.checkpoint_io import (
    latest_checkpoint,
    read_checkpoint,
    read_state_dict,
)
from ra_mm.errors import UserError


def test_latest(tmp_path):
    """The noted one, or one saved after the note, never one of an older run."""
    assert latest_checkpoint(tmp_path) is None
    note = tmp_path / 'last_checkpoint'
    paths = [tmp_path / f'epoch_{i}.pth' for i in range(12)]
    for path, time in [(paths[11], 1), (paths[2], 2), (note, 3)]:
        torch.save({}, path)
        os.utime(path, (time, time))
    note.write_text('')
    assert latest_checkpoint(tmp_path) == str(paths[11])  # an empty note
    note.write_text(str(paths[2]))
    os.utime(note, (3, 3))
    assert latest_checkpoint(tmp_path) == str(paths[2])
    torch.save({}, paths[3])  # killed before the note was written
    paths[4].write_bytes(paths[3].read_bytes()[:100])  # or by another tool
    assert latest_checkpoint(tmp_path) == str(paths[3])
    torch.save({}, paths[1])  # by hand, from an older one
    assert latest_checkpoint(tmp_path) == str(paths[3])
    note.write_text('/moved/epoch_3.pth')
    assert latest_checkpoint(tmp_path) == str(paths[11])


@pytest.mark.usefixtures('reader')
@pytest.mark.parametrize(
    'value',
    [
        np.float32(0.5),
        np.float16(0.5),
        np.int32(7),
        np.bool_(True),
        np.ones((2, 3), np.uint8),
        ConfigDict(a=dict(b=[1, dict(c=2)])),
        Counter({3: 1}),  # the milestones of MultiStepLR
        *({1, 2}, 1j, torch.float16, torch.device('cpu')),
    ],
    ids=str,
)
def test_plain_values_are_read(tmp_path, value):
    torch.save(dict(value=value), tmp_path / 'a.pth')
    read = read_checkpoint(str(tmp_path / 'a.pth'))['value']
    assert type(read) is type(value)
    assert np.array_equal(read, value)


@pytest.mark.usefixtures('reader')
@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
@pytest.mark.parametrize('value', [np.float64(0.5), np.ones((2, 3))], ids=str)
def test_numpy_1_and_2(tmp_path, core, value):
    """Their checkpoints name functions in numpy.core and numpy._core."""
    torch.save(dict(value=value), tmp_path / 'a.pth')
    with (
        zipfile.ZipFile(tmp_path / 'a.pth') as source,
        zipfile.ZipFile(tmp_path / 'b.pth', 'w') as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith('data.pkl'):
                content = re.sub(rb'numpy\._?core', core.encode(), content)
            target.writestr(name, content)
    read = read_checkpoint(str(tmp_path / 'b.pth'))['value']
    assert type(read) is type(value)
    assert np.array_equal(read, value)


def test_safetensors(tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    weights = {'a.weight': torch.randn(2, 3), 'b': torch.ones(1, dtype=torch.bfloat16)}
    path = tmp_path / 'model.safetensors'
    save_file(weights, path)
    torch.testing.assert_close(read_state_dict(str(path)), weights, rtol=0, atol=0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match='model.safetensors'):
        read_state_dict(str(path))


def test_safetensors_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    path = tmp_path / 'model.safetensors'
    path.touch()
    with pytest.raises(UserError, match='pip install safetensors'):
        read_state_dict(str(path))


LOAD = """
import sys
import torch
from ra_mm.registry import {registry}

{registry}.get('{name}')  # as type='ra_mm.{name}' in a config does

buffer = torch.load(sys.argv[1], weights_only=True)['loss']
assert buffer.mean() == 1.5
"""


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'add_safe_globals'),
    reason='torch.load() of PyTorch before 2.4 has no allow-list to add to',
)
@pytest.mark.parametrize(
    'registry, name', [('MODELS', 'RAResNet'), ('HOOKS', 'SafeCheckpointHook')]
)
def test_toolboxes_can_read_them(tmp_path, registry, name):
    """mmengine 0.10.7 passes no allow-list to torch.load()."""
    buffer = HistoryBuffer()
    buffer.update(1)
    buffer.update(2)
    torch.save(dict(loss=buffer), tmp_path / 'a.pth')
    code = LOAD.format(registry=registry, name=name)
    subprocess.run([sys.executable, '-c', code, tmp_path / 'a.pth'], check=True)
