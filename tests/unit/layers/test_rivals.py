"""The rivals and the controls against their equations, in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from ra_mm.layers import (
    ATTENTIONS,
    CBAM,
    ECA,
    GRN,
    MGRN,
    SE,
    GatedResidual,
    OnResidual,
    ReverseAttention,
    SimAM,
    StaticGate,
    ZeroScaledSE,
)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def mlp(layers, v):
    """A bottleneck of two 1x1 convolutions, on the vector of an image."""
    w0, b0, w1, b1 = (
        p.detach().flatten(1 if p.ndim > 1 else 0).numpy() for p in layers.parameters()
    )
    return w1 @ np.maximum(w0 @ v + b0, 0) + b1


def se(layer, F):
    """Eqs. 2 to 4 of SE."""
    z = F.mean(axis=(2, 3))
    return np.stack(
        [sigmoid(mlp(layer.mlp, z[n]))[:, None, None] * F[n] for n in range(len(F))]
    )


def cbam(layer, F):
    """Eqs. 1 to 3 of CBAM, pixel by pixel."""
    kernel = layer.conv.weight.detach().numpy()[0]
    out = np.empty_like(F)
    for n, f in enumerate(F):
        M_c = mlp(layer.mlp_avg, f.mean(axis=(1, 2))) + mlp(
            layer.mlp_max, f.max(axis=(1, 2))
        )
        f = sigmoid(M_c)[:, None, None] * f
        pooled = np.pad(
            np.stack([f.mean(axis=0), f.max(axis=0)]), ((0, 0), (3, 3), (3, 3))
        )
        for h, w in np.ndindex(f.shape[1:]):
            M_s = (kernel * pooled[:, h : h + 7, w : w + 7]).sum()
            out[n, :, h, w] = sigmoid(M_s) * f[:, h, w]
    return out


def simam(layer, F):
    """Eq. 5 of SimAM, neuron by neuron; the attention is sigmoid(1 / e)."""
    out = np.empty_like(F)
    for n, c in np.ndindex(F.shape[:2]):
        t = F[n, c]
        mu = t.mean()
        variance = ((t - mu) ** 2).sum() / max(t.size - 1, 1)
        energy = (
            4 * (variance + layer.lam) / ((t - mu) ** 2 + 2 * variance + 2 * layer.lam)
        )
        out[n, c] = sigmoid(1 / energy) * t
    return out


def eca(layer, F):
    """Each channel's weight is a weighted sum of its neighbours' means."""
    w = layer.conv.weight.detach().numpy()[0, 0]
    images, channels = F.shape[:2]
    out = np.empty_like(F)
    for n, c in np.ndindex(images, channels):
        total = 0.0
        for k, weight in enumerate(w):
            i = c + k - len(w) // 2
            if 0 <= i < channels:
                total += weight * F[n, i].mean()
        out[n, c] = sigmoid(total) * F[n, c]
    return out


def norms(F):
    """N of each channel: its L2 norm by the mean over the channels."""
    n = np.sqrt((F**2).sum(axis=(2, 3)))
    return n / (n.mean(axis=1, keepdims=True) + 1e-6)


def grn(layer, F):
    gamma, beta = (
        p.detach().numpy()[None, :, None, None] for p in (layer.gamma, layer.beta)
    )
    return gamma * (F * norms(F)[:, :, None, None]) + beta + F


def gated_residual(layer, F):
    gamma = layer.gate.gamma.detach().numpy()
    G = 1 + gamma / layer.gate.temp.item() * norms(F)
    return G[:, :, None, None] * F


TWINS = {
    SE: se,
    CBAM: cbam,
    SimAM: simam,
    ECA: eca,
    GRN: grn,
    GatedResidual: gated_residual,
    ZeroScaledSE: lambda layer, F: F + layer.scale.item() * se(layer, F),
}
RIVALS = [*TWINS, StaticGate]


def layer_and_inputs(kind, channels=6, size=(5, 3)):
    torch.manual_seed(0)
    layer = kind(channels).double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.3)
    if hasattr(layer, 'gate'):
        layer.gate.temp.fill_(2.5)
    F, x = torch.randn(2, 3, channels, *size, dtype=torch.float64)
    return layer, F, x


@pytest.mark.parametrize('kind', TWINS)
@pytest.mark.parametrize('channels, size', [(6, (5, 3)), (40, (4, 4)), (3, (1, 1))])
def test_equation(kind, channels, size):
    layer, F, x = layer_and_inputs(kind, channels, size)
    expected = TWINS[kind](layer, F.numpy()) + x.numpy()
    np.testing.assert_allclose(
        layer(F, x).detach().numpy(), expected, rtol=1e-12, atol=1e-12
    )


def test_static_gate():
    """It does not look at F; otherwise it is reverse attention."""
    layer, F, x = layer_and_inputs(StaticGate)
    gamma = layer.gate.gamma[:, None, None]
    torch.testing.assert_close(layer(F, x), F + (1 + gamma / 2.5) * x)
    names = [name for name, _ in layer.named_parameters()]
    assert names == [name for name, _ in ReverseAttention(6).named_parameters()]
    assert torch.equal(layer.gate(F), layer.gate(F.neg() * 3))


def test_ones_as_aggregation():
    """Eq. 5 makes of P = 1 an N of 1 / (1 + eps)."""
    F = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    for normalization, N in (('m-grn', 1 / (1 + 1e-6)), ('none', 1.0), ('ln', 0.0)):
        gate = MGRN(4, aggregation='ones', normalization=normalization).double()
        nn.init.constant_(gate.gamma, 0.5)
        torch.testing.assert_close(
            gate(F), torch.full((2, 4), 1 + 0.5 * N, dtype=F.dtype), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize('channels, hidden', [(48, 3), (40, 2), (8, 1)])
def test_reduced_width_of_se_and_cbam(channels, hidden):
    """C // 16, but at least 1."""
    assert SE(channels).mlp[0].out_channels == hidden
    assert CBAM(channels).mlp_max[0].out_channels == hidden


@pytest.mark.parametrize(
    'channels, kernel', [(1, 1), (16, 3), (64, 3), (256, 5), (512, 5), (2048, 7)]
)
def test_kernel_size_of_eca(channels, kernel):
    """Eq. 12; ECA-ResNet-50 has kernels of 5, 5, 5 and 7."""
    assert ECA(channels).conv.kernel_size == (kernel,)


@pytest.mark.parametrize(
    'variant', [StaticGate(4), GatedResidual(4), ReverseAttention(4, aggregation='l1')]
)
def test_weights_of_another_equation(variant):
    """They have the shapes of reverse attention's, and another meaning."""
    layer = ReverseAttention(4)
    for source, target in ((layer, variant), (variant, layer)):
        with pytest.raises(RuntimeError, match='variant|gates_residual'):
            target.load_state_dict(source.state_dict())


@pytest.mark.parametrize('kind', [GRN, StaticGate, GatedResidual, ZeroScaledSE])
def test_starts_as_the_plain_sum(kind):
    _, F, x = layer_and_inputs(kind)
    assert torch.equal(kind(6).double()(F, x), F + x)


@pytest.mark.parametrize('kind', RIVALS)
def test_gradients(kind):
    layer, F, x = layer_and_inputs(kind, 4, (2, 3))
    assert gradcheck(layer, (F.requires_grad_(), x.requires_grad_()))
    F = torch.zeros_like(F).requires_grad_()  # a last norm that is initialised to 0
    layer(F, x).sum().backward()
    assert F.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('kind', RIVALS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision(kind, dtype):
    """Sums of large maps do not overflow, and the stream keeps its type."""
    if dtype == torch.float16 and torch.__version__ < (2, 4):
        pytest.skip('no autocast to float16 on the CPU in PyTorch 2.1')
    layer, F, x = layer_and_inputs(kind, 6, (40, 40))
    layer, F = layer.float(), F * 10
    with torch.autocast('cpu', dtype):
        y = layer(F.to(dtype), x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(
        y.float(), layer(F.float(), x.float()), rtol=0.05, atol=0.3
    )


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('kind', [*RIVALS, ReverseAttention])
def test_traces_serve_maps_of_any_size(kind):
    """As an exported model needs."""
    layer = kind(6).double()
    nn.init.uniform_(next(layer.parameters(), torch.empty(1)))
    traced = torch.jit.trace(layer, torch.randn(2, 2, 6, 5, 3).double().unbind())
    F, x = torch.randn(2, 1, 6, 8, 7).double()
    torch.testing.assert_close(traced(F, x), layer(F, x))


@pytest.mark.parametrize('name', ATTENTIONS)
def test_registered(name):
    from ra_mm.registry import MODELS

    kind = ATTENTIONS[name]
    kwargs = dict(layer=nn.Identity) if kind is OnResidual else {}
    cfg = dict(type=f'ra_mm.{kind.__name__}', channels=8, **kwargs)
    assert type(MODELS.build(cfg)) is kind


def test_on_residual():
    F, x = torch.randn(2, 3, 4, 5, 5)
    adapter = OnResidual(4, nn.BatchNorm2d, eps=0.5)
    torch.testing.assert_close(adapter(F, x), nn.BatchNorm2d(4, eps=0.5)(F) + x)


@pytest.mark.parametrize(
    'layer, kwargs',
    [('mmpretrain.models.utils.SELayer', dict(ratio=8)), ('timm.layers.EcaModule', {})],
)
def test_on_residual_of_a_library(layer, kwargs):
    pytest.importorskip(layer.split('.')[0])
    adapter = OnResidual(32, layer, **kwargs)
    F, x = torch.randn(2, 3, 32, 5, 5)
    torch.testing.assert_close(adapter(F, x), adapter.layer(F) + x)


@pytest.mark.parametrize(
    'layer, message',
    [
        ('no_such.Layer', 'no_such'),
        ('torch.nn.NoLayer', 'NoLayer'),
        ('Layer', "layer='Layer'"),
        (lambda channels: channels, 'nn.Module'),
        (lambda channels: nn.AdaptiveAvgPool2d(1), r'\(2, 4, 5, 5\) to \(2, 4, 1, 1\)'),
    ],
)
def test_wrong_layer(layer, message):
    with pytest.raises(ValueError, match=message):
        OnResidual(4, layer)(*torch.randn(2, 2, 4, 5, 5))


@pytest.mark.parametrize('layer', [SE, SimAM, ECA, GRN, GatedResidual, StaticGate])
@pytest.mark.parametrize('shape', [(2, 20, 6), (2, 20, 3, 2, 4)])
def test_signals_and_volumes(layer, shape):
    """A plane is a set of values: its number of dimensions does not matter."""
    torch.manual_seed(0)
    attention = layer(shape[1]).double()
    for p in attention.parameters():
        nn.init.normal_(p)
    F, x = torch.randn(2, *shape, dtype=torch.float64)
    y = attention(F.flatten(2)[..., None], x.flatten(2)[..., None]).view(shape)
    torch.testing.assert_close(attention(F, x), y)


def test_shapes_that_an_attention_cannot_have():
    F = torch.randn(2, 20, 6)
    with pytest.raises(ValueError, match=r'CBAM: .*\(2, 20, 6\)'):
        CBAM(20)(F, F)
    for layer in (SE, SimAM, ECA, GRN, ReverseAttention):
        with pytest.raises(ValueError, match=r'\(2, 20\)'):
            layer(20)(F[..., 0], F[..., 0])
