"""Checkpoints that a tool must refuse, wherever they are named."""

import os
from pathlib import Path

import pytest
import torch

TRACE = 'code-was-run'


class Code:
    """Unpickled, it leaves its trace."""

    def __reduce__(self):
        return os.system, (f'touch {TRACE}',)


@pytest.mark.parametrize(
    'name, argv',
    [
        ('train', ['--resume', 'bad.pth']),
        ('test', ['bad.pth']),
        ('export_onnx', ['bad.pth', '--out', 'a.onnx']),
        ('visualize_gates', ['bad.pth', '.']),
    ],
)
def test_code_is_not_run(message, tool, configs, tmp_path, monkeypatch, name, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'star').mkdir()
    (tmp_path / 'star/a.jpg').write_bytes(b'')
    torch.save(dict(state_dict=dict(x=Code())), 'bad.pth')
    text = message(tool(name), configs / 'classifier.py', *argv)
    assert 'bad.pth' in text and 'posix.system' in text
    assert not Path(TRACE).exists()
