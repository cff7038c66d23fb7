"""tools/benchmark.py --bytes."""

import shutil

import pytest
import torch

from benchmarks import cases as benchmark_cases
from benchmarks import tail_bytes as path_bytes
from benchmarks.cases import Case
from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.ops import dispatch

SMALL = '--model resnet18 --batch 2 --size 32 --device cpu'.split()


@pytest.fixture
def table(tool, capsys):
    """The first two columns of the table, without its head."""

    def call(*variants):
        tool('benchmark')('--what', 'tail', *SMALL, '--bytes', '--variants', *variants)
        out = capsys.readouterr().out
        assert out.startswith('tail resnet18, cpu fp32 nchw, 2 x 32 px')
        rows = [line.split('|') for line in out.splitlines() if '|' in line]
        return {row[1].strip(): row[2].strip() for row in rows[2:]}

    return call


def test_bytes(table, monkeypatch):
    """A row for each variant, the same at each call."""
    monkeypatch.setattr(path_bytes, 'compiler_available', lambda device: False)
    rows = table('ra-given', 'ra-compiled')
    assert list(rows) == ['each tensor once', 'plain', 'ra-given', 'ra-compiled']
    assert float(rows['ra-given']) > float(rows['each tensor once']) > 0
    assert not rows['ra-compiled'].isdecimal()
    assert table('ra-given', 'ra-compiled') == rows


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 compiles nothing')
def test_failing_compiler(table, monkeypatch):
    """Its message takes the place of the figure, and the other rows stay."""

    def compile(function):
        raise RuntimeError('no such compiler\ndetails')

    monkeypatch.setattr(dispatch, '_compilation_failed', False)
    monkeypatch.setattr(dispatch, '_compile', compile)
    monkeypatch.setattr(path_bytes, 'compiler_available', lambda device: True)
    rows = table('ra-compiled', 'ra-fused')
    assert 'no such compiler' in rows['ra-compiled']
    assert float(rows['ra-fused']) > 0


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 compiles nothing')
@pytest.mark.skipif(not shutil.which('g++'), reason='no compiler')
def test_compiled_path(monkeypatch):
    """Fewer bytes than any other path, and no fewer than there are.

    Counted in every kernel that inductor makes of one tail.
    """
    for module in (benchmark_cases, path_bytes):
        one = [(torch.Size([2, 16, 48, 48]), True)]
        monkeypatch.setattr(module, 'tails', lambda case: one)
    case = Case('tail', 'resnet18', 'cpu', 'fp32', 'nchw', batch=2, size=0)
    compiled, fused, given = (
        path_bytes.count_bytes(case, f'ra-{path}')
        for path in ('compiled', 'fused', 'given')
    )
    assert path_bytes.lower_bound(case) <= compiled < min(fused, given)
    # Of the 13 tensors that it takes in 3 passes forward and 2 backward,
    # vectors are all that may come on top.
    assert compiled < 1.1 * 13 / 9 * path_bytes.lower_bound(case)


def test_bytes_of_tails_only(tool, capsys):
    with pytest.raises(SystemExit):
        tool('benchmark')('--what', 'train', '--bytes')
    assert '--bytes' in capsys.readouterr().err
