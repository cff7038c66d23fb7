"""ReverseAttention against the paper's equations, written out in NumPy."""
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ra_mm.layers import ReverseAttention


def paper(F, x, gamma, temp, eps=1e-6):
    """Eqs. 2, 3, 5 and 8, element by element."""
    y = np.empty_like(F)
    for n in range(F.shape[0]):
        P = [np.sqrt((F[n, c]**2).sum()) for c in range(F.shape[1])]
        mean = sum(P) / len(P)
        for c in range(F.shape[1]):
            G = gamma[c] * (P[c] / (mean + eps)) / temp + 1
            y[n, c] = F[n, c] + G * x[n, c]
    return y


def layer_and_inputs(channels=6, size=(3, 6, 5, 4), dtype=torch.float64):
    torch.manual_seed(0)
    layer = ReverseAttention(channels).to(dtype)
    layer.gamma.data.normal_()
    layer.temp.fill_(7.5)
    return layer, torch.randn(size, dtype=dtype), torch.randn(
        size, dtype=dtype)


def test_paper():
    layer, F, x = layer_and_inputs()
    y = paper(F.numpy(), x.numpy(), layer.gamma.detach().numpy(), 7.5)
    np.testing.assert_allclose(
        layer(F, x).detach().numpy(), y, rtol=1e-12, atol=1e-12)


def test_starts_as_residual_sum():
    layer, F, x = layer_and_inputs()
    layer.gamma.data.zero_()
    assert torch.equal(layer(F, x), F + x)


def test_gate_of_zero_is_one():
    layer, F, x = layer_and_inputs()
    assert torch.equal(layer.gate(torch.zeros_like(F)), torch.ones(3, 6))
    F[1, 2] = 0  # one plane
    assert layer.gate(F)[1, 2] == 1


@pytest.mark.parametrize('zeros', ['none', 'plane', 'sample', 'all'])
def test_gradients(zeros):
    layer, F, x = layer_and_inputs(size=(2, 6, 3, 2))
    if zeros in ('none', 'plane'):
        F[0, 1] *= zeros == 'none'
    else:
        F[slice(None) if zeros == 'all' else 0] = 0
    F.requires_grad_()
    x.requires_grad_()
    if zeros == 'none':
        assert gradcheck(layer, (F, x))
        assert gradcheck(
            lambda gamma: torch.func.functional_call(layer, {'gamma': gamma},
                                                     (F, x)), layer.gamma)
    layer(F, x).square().sum().backward()
    for grad in (F.grad, x.grad, layer.gamma.grad):
        assert grad.isfinite().all()
    if zeros == 'all':  # y = x: dL/dF is the residual sum's, gamma's is 0
        assert torch.equal(F.grad, 2 * x)
        assert torch.equal(layer.gamma.grad, torch.zeros(6))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Large maps of large values: the sum of squares (2.7e9) is no float16."""
    layer = ReverseAttention(4)
    layer.gamma.data = torch.tensor([1., -1., 0.5, 0.])
    F = torch.full((1, 4, 200, 336), 200., dtype=dtype)
    F[:, 1] /= 2
    x = torch.ones_like(F)
    y = layer(F, x)
    assert y.dtype == dtype
    u = torch.tensor([1, 0.5, 1, 1]) / 0.875
    G = 1 + layer.gamma * u
    torch.testing.assert_close(layer.gate(F)[0], G, rtol=1e-6, atol=0)
    expected = (F.float() + G[:, None, None] * x.float()).to(dtype)
    torch.testing.assert_close(y, expected)
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(F, x).dtype == dtype


def test_temp_round_trip():
    layer, F, x = layer_and_inputs()
    other = ReverseAttention(6).double()
    other.load_state_dict(layer.state_dict())
    assert other.temp == 7.5 and torch.equal(other(F, x), layer(F, x))
    assert set(layer.state_dict()) == {'gamma', 'temp'}


def test_weights_without_temp_mean_temp_1():
    layer, _, _ = layer_and_inputs()
    result = layer.load_state_dict({'gamma': torch.ones(6)})  # strict
    assert not result.missing_keys and layer.temp == 1
    layer.temp.fill_(7.5)
    layer.load_state_dict({}, strict=False)
    assert layer.temp == 1


def test_changing_temp_does_not_recompile():
    layer, F, x = layer_and_inputs(dtype=torch.float32)
    compilations = []

    def backend(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for temp in (30., 20.5, 1.):
        layer.temp.fill_(temp)
        torch.testing.assert_close(compiled(F, x), layer(F, x))
    assert len(compilations) == 1
