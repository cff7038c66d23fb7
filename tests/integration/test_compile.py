"""Models and layers that inductor compiles."""

import copy
import functools

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.exactness import RandomTail
from ra_mm.ops import retry_compilation


def assert_equals_reference(shape, training):
    """Values, gradients and running statistics of the path 'compiled'."""
    tail = RandomTail(shape[1], 'cpu', training)
    reference = copy.deepcopy(tail)
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    ours = tail.outputs('compiled', *inputs)
    assert ours['y'].grad_fn.name() == 'BNTailBackward'
    expected = reference.outputs('reference', *inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tail.state_dict(), reference.state_dict())


@pytest.mark.parametrize('training', [True, False])
def test_compiled_path(training):
    """Forward and backward pass of the tail through inductor, each as one graph.

    The same graphs serve other shapes, as multi-scale training brings them.
    """
    torch._dynamo.reset()
    assert_equals_reference((3, 4, 5, 2), training)
    graphs = counters['stats']['unique_graphs']
    for shape in [(2, 6, 7, 9), (5, 4, 16, 12), (4, 8, 8, 8), (2, 4, 33, 50)]:
        assert_equals_reference(shape, training)
    assert counters['stats']['unique_graphs'] == graphs


@pytest.mark.parametrize('training', [True, False])
def test_sizes_of_one(training, use_compiler):
    """They are constants to torch.compile, whose graphs are checked without inductor."""
    use_compiler(functools.partial(torch.compile, backend='aot_eager'))
    for shape in [(3, 4, 5, 2), (1, 4, 5, 2), (3, 4, 1, 1), (3, 4, 1, 7), (3, 1, 5, 6)]:
        assert_equals_reference(shape, training)
    assert not retry_compilation()
