"""Counting the bytes of operators and of the tails."""

import pytest
import torch

from benchmarks.cases import Case, tails
from benchmarks.tail_bytes import ByteCounter, count_bytes, lower_bound
from ra_mm._torch import cpu_mixes_dtypes


def case(precision='amp', layout='nchw'):
    return Case('tail', 'resnet18', 'cpu', precision, layout, batch=2, size=64)


@pytest.mark.parametrize(
    'operation, streams',
    [
        (lambda a, b: a + b, 3),
        (lambda a, b: a.add_(b), 3),
        (lambda a, b: a.copy_(b), 2),
        (lambda a, b: a + a, 2),
        (lambda a, b: torch.empty_like(a), 0),
        (lambda a, b: a.view(-1).detach().t(), 0),
        (lambda a, b: a.double(), 3),
        (lambda a, b: a.sum(), 1),
        (lambda a, b: torch.stack([a, b]), 4),
        (lambda a, b: torch.mul(a, b, out=torch.empty(16, 16)), 3),
    ],
)
def test_operators(operation, streams):
    """In units of one tensor; scalars are smaller."""
    a, b = torch.randn(2, 16, 16)
    with ByteCounter() as counter:
        operation(a, b)
    assert counter.bytes // (4 * 16 * 16) == streams


def test_expanded_tensor_counts_once():
    a, b = torch.randn(16, 16), torch.randn(16, 1)
    with ByteCounter() as counter:
        a + b.expand(16, 16)
    assert counter.bytes == 4 * (2 * 16 * 16 + 16)


@pytest.mark.skipif(not cpu_mixes_dtypes(), reason='PyTorch 2.1 on a CPU')
def test_plain_tails():
    """Batch norm, sum, ReLU: 7 streams forward and 6 backward."""
    stream = 2 * sum(shape.numel() for shape, _ in tails(case()))
    assert lower_bound(case()) == 9 * stream
    rest = count_bytes(case(), 'plain') - 13 * stream
    # Vectors of weights, statistics, gradients, and momentum.
    assert 0 < rest < 40 * 4 * sum(shape[1] for shape, _ in tails(case()))


@pytest.mark.skipif(not cpu_mixes_dtypes(), reason='PyTorch 2.1 on a CPU')
@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
def test_paths(layout):
    """Each path in its order, the same in each count."""
    counts = [
        count_bytes(case(layout=layout), f'ra-{path}')
        for path in ('fused_sum', 'fused', 'naive')
    ]
    assert lower_bound(case()) < counts[0] < counts[1] < counts[2]
    assert counts[0] == count_bytes(case(layout=layout), 'ra-fused_sum')
