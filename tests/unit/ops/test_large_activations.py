"""The tails in half precision, with activations whose squares overflow it."""

import pytest
import torch
from torch import nn

from ra_mm.layers import ReverseAttention
from ra_mm.ops import force_path


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('path', ['fused', 'given', 'reference'])
def test_large_activations(path, dtype, training):
    """F and x around 200 on maps of 200x336: sums of squares reach 2.7e9."""
    if dtype == torch.float16 and torch.__version__ < (2, 4):
        pytest.skip('no batch norm in float16 on the CPU in PyTorch 2.1')
    g = torch.Generator().manual_seed(0)
    z, x, dy = torch.randn(3, 2, 4, 200, 336, generator=g)
    norm = nn.BatchNorm2d(4).train(training)
    nn.init.constant_(norm.bias, 200)
    layer = ReverseAttention(4)
    layer.gate.gamma.data.normal_(generator=g)

    def run(path, dtype):
        z_, x_ = (t.to(dtype).requires_grad_() for t in (z, x + 200))
        with force_path(path):
            y = layer.tail(z_, norm, x_, nn.ReLU())
        return y, *torch.autograd.grad(
            y, [z_, x_, layer.gate.gamma, *norm.parameters()], dy.to(dtype)
        )

    ours = run(path, dtype)
    layer.double(), norm.double()
    expected = run('reference', torch.float64)
    assert all(t.isfinite().all() for t in ours)
    for a, b in zip(ours[:4], expected):  # y, dz, dx, dgamma
        assert (a - b).norm() < torch.finfo(dtype).eps * b.norm()
