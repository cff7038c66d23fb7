"""SE against torchvision's squeeze-and-excitation."""

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.ops import SqueezeExcitation

from ra_mm.layers import SE


def inputs(*size, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(size, dtype=dtype, generator=g) for _ in range(2)]


@pytest.mark.parametrize('channels, hidden', [(48, 3), (40, 2), (8, 1)])
def test_torchvision(channels, hidden):
    """The reduced width is C // 16, but at least 1."""
    reference = SqueezeExcitation(channels, hidden).double()
    layer = SE(channels).double()
    layer.load_state_dict(
        dict(zip(layer.state_dict(), reference.state_dict().values()))
    )
    F, x = inputs(2, channels, 5, 3)
    torch.testing.assert_close(layer(F, x), reference(F) + x, rtol=1e-12, atol=1e-12)


def test_gradients():
    torch.manual_seed(0)
    layer = SE(32).double()
    F, x = inputs(2, 32, 2, 2)
    assert gradcheck(layer, (F.requires_grad_(), x.requires_grad_()))


def test_zero():
    layer = SE(32)
    F, x = inputs(2, 32, 4, 4, dtype=torch.float32)
    F = F.mul(0).requires_grad_()
    y = layer(F, x)
    assert torch.equal(y, x)
    y.sum().backward()
    assert F.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    if dtype == torch.float16 and torch.__version__ < (2, 4):
        pytest.skip('no autocast to float16 on the CPU in PyTorch 2.1')
    layer = SE(32)
    F, x = inputs(2, 32, 4, 4, dtype=torch.float32)
    with torch.autocast('cpu', dtype):
        y = layer(F.to(dtype), x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(F, x), rtol=0.05, atol=0.05)
