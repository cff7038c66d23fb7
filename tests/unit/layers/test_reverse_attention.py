"""ReverseAttention and MGRN against the paper's equations, in NumPy."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ra_mm.layers import ReverseAttention

STEPS = ('aggregation', 'normalization', 'activation')
DEFAULT = ('l2', 'm-grn', '1+')
# The rows of Tables 6, 7 and 8: one step differs from the default.
ROWS = [
    DEFAULT,
    *((a, 'm-grn', '1+') for a in ('l1', 'gap', 'gmp', 'abs_gap', 'abs_gmp')),
    *(('l2', n, '1+') for n in ('none', 'bn', 'ln')),
    *(('l2', 'm-grn', a) for a in ('sigmoid', 'softmax')),
]


def paper_gate(F, gamma, temp, variant, eps=1e-6):
    """G by Eqs. 3, 4, 5 and 8 and Tables 6, 7 and 8, element by element."""
    aggregation, normalization, activation = variant
    images, channels = F.shape[:2]
    P = np.empty((images, channels))
    for n, c in np.ndindex(images, channels):
        v = F[n, c].ravel()
        P[n, c] = {
            'l2': (v * v).sum() ** 0.5,
            'l1': abs(v).sum(),
            'gap': v.sum() / len(v),
            'gmp': v.max(),
            'abs_gap': abs(v.sum() / len(v)),
            'abs_gmp': abs(v.max()),
        }[aggregation]

    N = np.empty_like(P)
    for n, c in np.ndindex(images, channels):
        row, column = P[n], P[:, c]  # an image's channels, a channel's images
        mean = sum(row) / channels
        if normalization == 'm-grn':
            N[n, c] = P[n, c] / (mean + eps)
        elif normalization == 'none':
            N[n, c] = P[n, c]
        elif normalization == 'ln':
            sigma = (sum((p - mean) ** 2 for p in row) / channels) ** 0.5
            N[n, c] = (P[n, c] - mean) / (sigma + eps)
        else:
            mu = sum(column) / images
            variance = sum((p - mu) ** 2 for p in column) / images
            N[n, c] = (P[n, c] - mu) / (variance + eps) ** 0.5

    G = np.empty_like(P)
    for n, c in np.ndindex(images, channels):
        z = gamma * N[n] / temp
        if activation == '1+':
            G[n, c] = 1 + z[c]
        elif activation == 'sigmoid':
            G[n, c] = 1 / (1 + np.exp(-z[c]))
        else:
            G[n, c] = np.exp(z[c]) / sum(np.exp(z))
    return G


def layer_and_inputs(
    variant=DEFAULT, channels=6, size=(3, 6, 5, 4), dtype=torch.float64
):
    g = torch.Generator().manual_seed(0)
    layer = ReverseAttention(channels, **dict(zip(STEPS, variant))).to(dtype)
    layer.gate.gamma.data.normal_(generator=g)
    layer.gate.temp.fill_(7.5)
    # A mean other than 0: Eq. 5 has a pole where the signed P's mean is 0.
    F = torch.randn(size, dtype=dtype, generator=g) + 0.5
    return layer, F, torch.randn(size, dtype=dtype, generator=g)


@pytest.mark.parametrize('size', [(3, 6, 5, 4), (3, 6, 9), (2, 6, 3, 2, 4)])
@pytest.mark.parametrize('variant', ROWS)
def test_paper(variant, size):
    layer, F, x = layer_and_inputs(variant, size=size)
    G = paper_gate(F.numpy(), layer.gate.gamma.detach().numpy(), 7.5, variant)
    y = F.numpy() + np.reshape(G, G.shape + (1,) * (F.ndim - 2)) * x.numpy()
    np.testing.assert_allclose(
        layer.gate(F).detach().numpy(), G, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(layer(F, x).detach().numpy(), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('variant', ROWS)
def test_gradients(variant):
    layer, F, x = layer_and_inputs(variant, 4, (3, 4, 2, 1))
    F.requires_grad_()
    x.requires_grad_()

    def sum_of(gamma, F, x):
        return torch.func.functional_call(layer, {'gate.gamma': gamma}, (F, x))

    assert gradcheck(sum_of, (layer.gate.gamma, F, x))


@pytest.mark.parametrize('variant', ROWS)
@pytest.mark.parametrize('zeros', ['plane', 'image', 'all'])
def test_gradients_at_0(variant, zeros):
    for training in (True, False):
        layer, F, x = layer_and_inputs(variant)
        layer.train(training)
        F[{'plane': (0, 1), 'image': 0, 'all': slice(None)}[zeros]] = 0
        F.requires_grad_()
        x.requires_grad_()
        y = layer(F, x)
        assert y.isfinite().all()
        y.square().sum().backward()
        for grad in (F.grad, x.grad, layer.gate.gamma.grad):
            assert grad.isfinite().all()
        if zeros == 'all' and variant == ROWS[0]:
            # y = x: dL/dF is the residual sum's, gamma's is 0
            assert torch.equal(F.grad, 2 * x)
            assert torch.equal(layer.gate.gamma.grad, torch.zeros(6))


@pytest.mark.parametrize('variant', ROWS)
def test_gate_of_zero(variant):
    """G(0) = 1, exactly, for the variants that are documented to have it."""
    aggregation, normalization, activation = variant
    layer, F, _ = layer_and_inputs(variant)
    F[1, 2] = 0
    G = layer.gate(F)
    if normalization in ('m-grn', 'none') and activation == '1+':
        assert G[1, 2] == 1
        assert torch.equal(layer.gate(torch.zeros_like(F)), torch.ones(3, 6))
    else:
        assert (G[1, 2] - 1).abs() > 1e-3


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('variant', ROWS)
def test_half_precision(variant, dtype):
    """Large maps of large values, whose sum of squares (2e9) overflows float16."""
    if dtype == torch.float16 and torch.__version__ < (2, 4):
        pytest.skip('no autocast to float16 on the CPU in PyTorch 2.1')
    layer, F, x = layer_and_inputs(variant, 4, (2, 4, 200, 336), torch.float32)
    F = (100 * F + 100).to(dtype).requires_grad_()
    x = x.to(dtype)
    y = layer(F, x)
    G = torch.from_numpy(
        paper_gate(
            F.detach().double().numpy(),
            layer.gate.gamma.detach().double().numpy(),
            7.5,
            variant,
        )
    )
    torch.testing.assert_close(layer.gate(F), G.float(), rtol=1e-4, atol=1e-4)
    product = G[:, :, None, None] * x
    rounding = 2 * torch.finfo(dtype).eps * (F.abs() + product.abs())
    assert y.dtype == dtype
    assert ((y - (F + product)).abs() <= rounding + 1e-6).all()
    with torch.autocast('cpu', dtype):
        assert layer.gate(F).dtype == torch.float32
        y = layer(F, x)
    assert y.dtype == dtype
    y.float().mean().backward()
    assert F.grad.dtype == dtype and F.grad.isfinite().all()
    assert layer.gate.gamma.grad.isfinite().all()


def test_bn_running_statistics():
    """In evaluation 'bn' uses its running statistics, even for a single image."""
    layer, F, _ = layer_and_inputs(('l2', 'bn', '1+'))
    P = F.square().sum((2, 3)).sqrt()
    mean, var = torch.zeros(6).double(), torch.ones(6).double()
    for _ in range(2):
        layer.gate(F)
        mean = 0.9 * mean + 0.1 * P.mean(0)
        var = 0.9 * var + 0.1 * P.var(0)
    layer.eval()
    N = (P - mean) / (var + 1e-6).sqrt()
    torch.testing.assert_close(layer.gate(F), 1 + layer.gate.gamma * N / 7.5)
    torch.testing.assert_close(layer.gate(F[:1]), 1 + layer.gate.gamma * N[:1] / 7.5)
    assert {'gate.bn.running_mean', 'gate.bn.running_var'} < set(layer.state_dict())


def test_bn_becomes_sync_bn():
    layer, _, _ = layer_and_inputs(('l2', 'bn', '1+'))
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert isinstance(synced.gate.bn, torch.nn.SyncBatchNorm)


@pytest.mark.parametrize(
    'argument, value',
    [
        ('channels', 0),
        ('aggregation', 'L2'),
        ('normalization', None),
        ('activation', ['1+']),
        ('eps', 0.0),
    ],
)
def test_wrong_arguments(argument, value):
    with pytest.raises(ValueError, match=argument):
        ReverseAttention(**{'channels': 4, argument: value})


def test_temp_round_trip():
    layer, F, x = layer_and_inputs()
    other = ReverseAttention(6).double()
    other.load_state_dict(layer.state_dict())
    assert other.gate.temp == 7.5 and torch.equal(other(F, x), layer(F, x))
    assert set(layer.state_dict()) == {'gate.gamma', 'gate.temp'}


def test_weights_without_temp_mean_temp_1():
    layer, _, _ = layer_and_inputs()
    result = layer.load_state_dict({'gate.gamma': torch.ones(6)})  # strict
    assert not result.missing_keys and layer.gate.temp == 1
    layer.gate.temp.fill_(7.5)
    layer.load_state_dict({}, strict=False)  # plain weights, during an annealing
    assert layer.gate.temp == 7.5
