"""CBAM against its paper's equations, written out in NumPy."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ra_mm.layers import CBAM


def layer_and_inputs(channels=32, size=(5, 3), dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    layer = CBAM(channels).to(dtype)
    for p in layer.parameters():
        p.data.normal_(std=0.3, generator=g)
    F, x = torch.randn(2, 2, channels, *size, dtype=dtype, generator=g)
    return layer, F, x


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def cbam(F, state):
    """Eqs. 1, 2 and 3 for one image of shape (C, H, W)."""

    def mlp(name, v):
        w0, b0, w1, b1 = (
            state[f'{name}.{k}'].reshape(len(state[f'{name}.{k}']), -1)
            for k in ('0.weight', '0.bias', '2.weight', '2.bias')
        )
        return w1 @ np.maximum(w0 @ v + b0[:, 0], 0) + b1[:, 0]

    C, H, W = F.shape
    Mc = sigmoid(
        mlp('mlp_avg', np.array([plane.sum() / (H * W) for plane in F]))
        + mlp('mlp_max', np.array([plane.max() for plane in F]))
    )
    F = np.stack([Mc[c] * F[c] for c in range(C)])
    pooled = np.zeros((2, H + 6, W + 6))  # 3 zeros on each side
    for h, w in np.ndindex(H, W):
        pooled[0, h + 3, w + 3] = F[:, h, w].sum() / C
        pooled[1, h + 3, w + 3] = F[:, h, w].max()
    y = np.empty_like(F)
    for h, w in np.ndindex(H, W):
        Ms = sigmoid((state['conv.weight'][0] * pooled[:, h : h + 7, w : w + 7]).sum())
        y[:, h, w] = Ms * F[:, h, w]
    return y


@pytest.mark.parametrize('channels, hidden', [(48, 3), (40, 2), (8, 1)])
def test_paper(channels, hidden):
    """The reduced width is C // 16, but at least 1."""
    layer, F, x = layer_and_inputs(channels)
    assert sum(p.numel() for p in layer.parameters()) == (
        2 * (2 * channels * hidden + hidden + channels) + 98
    )
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    y = [cbam(f.numpy(), state) + s.numpy() for f, s in zip(F, x)]
    np.testing.assert_allclose(layer(F, x).detach().numpy(), y, rtol=1e-12, atol=1e-12)


def test_gradients():
    layer, F, x = layer_and_inputs(size=(2, 2))
    assert gradcheck(layer, (F.requires_grad_(), x.requires_grad_()))


def test_zero():
    layer, F, x = layer_and_inputs()
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
    layer, F, x = layer_and_inputs(dtype=torch.float32)
    with torch.autocast('cpu', dtype):
        y = layer(F.to(dtype), x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(F, x), rtol=0.05, atol=0.05)
