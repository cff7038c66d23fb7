"""The code for GPUs, run on a CPU."""

import pytest
import torch
from torch import nn

from ra_mm._torch import cpu_mixes_dtypes
from ra_mm.layers import ReverseAttention
from ra_mm.ops import cpu_reductions, force_path

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('shape', [(3, 6, 1, 1), (1, 6, 5, 4), (3, 1, 5, 4)])
@pytest.mark.parametrize('path', ['fused', 'fused_sum'])
def test_sizes_of_one(path, shape, affine, tail_and_inputs, monkeypatch):
    """Also layouts of z, x and dy that differ; dy is a vector, expanded."""
    module, z, x = tail_and_inputs(shape, affine=affine)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    dy = torch.linspace(-1, 1, shape[1]).double()[:, None, None].expand(shape)
    learns = [z.requires_grad_(), x, *module.parameters()]

    def run(path):
        with force_path(path):
            y = module(z, x)
        return [y, *torch.autograd.grad(y, learns, dy)]

    expected = run('reference')
    monkeypatch.setattr(cpu_reductions, 'as_on_gpu', True)
    torch.testing.assert_close(run(path), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_gates_near_one(memory_format, monkeypatch):
    """y = F + G x and dx = G dy are rounded once; a rounded G would often be 1."""
    if not cpu_mixes_dtypes():
        pytest.skip('the CPU has no such operations in PyTorch 2.1')
    g = torch.Generator().manual_seed(0)
    layer = ReverseAttention(6)
    layer.gate.gamma.data.normal_(std=0.05, generator=g)
    layer.gate.temp.fill_(30)
    F, x, dy = (
        t.bfloat16().to(memory_format=memory_format)
        for t in torch.randn(3, 3, 6, 17, 16, generator=g)
    )

    def run(path, *tensors):
        F, x, dy = (t.clone() for t in tensors)
        x.requires_grad_()
        with force_path(path):
            y = layer.tail(F, nn.Identity(), x, nn.Identity())
        return [y, *torch.autograd.grad(y, x, dy)]

    exact = run('reference', F.double(), x.double(), dy.double())
    monkeypatch.setattr(cpu_reductions, 'as_on_gpu', True)
    found = run('fused_sum', F, x, dy)
    eps = torch.finfo(torch.bfloat16).eps
    for a, b in zip(found, exact):
        assert (a - b).abs().le(0.501 * eps * b.abs() + 1e-6).all()
