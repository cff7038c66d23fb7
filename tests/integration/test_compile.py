"""Models and layers that inductor compiles."""

import copy

import pytest
import torch

from ra_mm.analysis.exactness import RandomTail


@pytest.mark.parametrize('training', [True, False])
def test_compiled_path(training):
    """Forward and backward pass of the tail through inductor, each as one graph."""
    torch._dynamo.reset()
    tail = RandomTail(4, 'cpu', training)
    reference = copy.deepcopy(tail)
    inputs = torch.randn(3, 3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    ours = tail.outputs('compiled', *inputs)
    assert ours['y'].grad_fn.name() == '_BNTailBackward'
    expected = reference.outputs('reference', *inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tail.state_dict(), reference.state_dict())
