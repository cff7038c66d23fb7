"""How often the tails are compiled, and what happens if they cannot be."""

import functools
import warnings

import pytest
import torch
from torch import nn

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.layers import ReverseAttention
from ra_mm.ops import CompilationFailed, force_path, retry_compilation

pytestmark = pytest.mark.skipif(
    not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 runs them eagerly'
)


def test_one_compilation_serves_all_shapes(use_compiler):
    """Blocks of any width, images of any size: one graph each way.

    There is one for each dtype, and for batch norm in training and frozen.
    """
    # Autograd starts its threads here, before the compiler registers devices;
    # a later test could not fork otherwise.
    torch.ones(1, requires_grad=True).sum().backward()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    use_compiler(functools.partial(torch.compile, backend=backend))

    def step(dtype, training, channels, size):
        layer, norm = ReverseAttention(channels), nn.BatchNorm2d(channels)
        z, x = torch.randn(2, 4, channels, *size).to(dtype)
        with force_path('compiled'):
            y = layer.tail(z.requires_grad_(), norm.train(training), x, nn.ReLU())
        y.float().sum().backward()

    sizes = [(8, 8), (10, 12), (12, 10), (14, 14), (4, 20), (7, 7)]
    counts = []
    for dtype in (torch.float32, torch.bfloat16):
        for training in (True, False):
            for size in sizes:
                for channels in (8, 12, 4):
                    step(dtype, training, channels, size)
            counts.append(len(graphs))
    assert counts == [2, 4, 6, 8] and not retry_compilation()


def test_failure(use_compiler, tail_and_inputs, run):
    """One warning, the results of the eager path, and no further attempt."""
    attempts = []

    def broken(function, **kwargs):
        attempts.append(function)
        raise RuntimeError('no such compiler\ndetails')

    use_compiler(broken)
    module, z, x = tail_and_inputs()
    expected, _ = run('fused', module, z, x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        ours, _ = run('compiled', module, z, x)
    assert [w.category for w in caught] == [CompilationFailed]
    assert 'no such compiler' in str(caught[0].message)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert len(attempts) == 1 and retry_compilation() and not retry_compilation()
