"""The code for GPUs, run on a CPU."""

import copy

import pytest
import torch
from torch import nn

from ra_mm._torch import cpu_mixes_dtypes
from ra_mm.backbones import RAResNet
from ra_mm.layers import ReverseAttention, force_path
from ra_mm.ops.cpu_reductions import as_on_gpu

FORMATS = [torch.contiguous_format, torch.channels_last]


def tail(dtype, path, training, relu, memory_format, rounded_to=torch.float64):
    """y, the gradients and the new statistics of a tail."""
    g = torch.Generator().manual_seed(0)
    layer, norm = ReverseAttention(6), nn.BatchNorm2d(6).train(training)
    for p in (layer.gate.gamma, norm.weight, norm.bias, norm.running_mean):
        p.data.normal_(generator=g)
    z, x, dy = torch.randn(3, 3, 6, 17, 16, generator=g)
    if dtype == torch.float64:
        layer, norm = layer.double(), norm.double()
    z, x, dy = (
        t.to(rounded_to).to(dtype).to(memory_format=memory_format) for t in (z, x, dy)
    )
    z[0, 1] = 0
    learns = [z.requires_grad_(), x.requires_grad_()]
    with force_path(path):
        y = layer.tail(z * 1, norm, x, nn.ReLU() if relu else nn.Identity())
    learns += [*norm.parameters(), layer.gate.gamma]
    return [y, *torch.autograd.grad(y, learns, dy), *norm.buffers()]


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'given'])
def test_tail(path, training, relu, memory_format):
    settings = path, training, relu, memory_format
    expected = tail(torch.float64, *settings)
    with as_on_gpu():
        found = tail(torch.float64, *settings)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('shape', [(3, 6, 1, 1), (1, 6, 5, 4), (3, 1, 5, 4)])
@pytest.mark.parametrize('path', ['fused', 'given'])
def test_sizes_of_one(path, shape, affine):
    """And layouts of z, x and dy that differ; dy is a vector, expanded."""
    g = torch.Generator().manual_seed(0)
    layer = ReverseAttention(shape[1]).double()
    norm = nn.BatchNorm2d(shape[1], affine=affine).double()
    layer.gate.gamma.data.normal_(generator=g)
    z, x = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    dy = torch.randn(shape[1], generator=g).double()[:, None, None].expand(shape)
    learns = [z.requires_grad_(), x, layer.gate.gamma, *norm.parameters()]

    def run(path):
        with force_path(path):
            y = layer.tail(z, norm, x, nn.ReLU())
        return [y, *torch.autograd.grad(y, learns, dy)]

    expected = run('reference')
    with as_on_gpu():
        found = run(path)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('path', ['fused', 'given'])
def test_inference(path, memory_format):
    """Without gradients, where y overwrites F but not the inputs."""
    torch.manual_seed(0)
    layer, norm = ReverseAttention(6), nn.BatchNorm2d(6).eval()
    nn.init.normal_(layer.gate.gamma)
    z, x = (torch.randn(3, 6, 5, 4).to(memory_format=memory_format) for _ in 'zx')
    before = z.clone(), x.clone()
    results = []
    for of in (path, 'reference'):
        with torch.no_grad(), force_path(of), as_on_gpu():
            results.append(layer.tail(z, norm, x, nn.ReLU()))
    torch.testing.assert_close(*results)
    assert torch.equal(z, before[0]) and torch.equal(x, before[1])


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('path', ['fused', 'given'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_precision(dtype, path, memory_format):
    """Of a tail without ReLU, whose mask would differ: that of the equations."""
    if dtype != torch.float32 and not cpu_mixes_dtypes():
        pytest.skip('the CPU has no such operations in PyTorch 2.1')

    def errors(path):
        found = tail(dtype, path, True, False, memory_format)
        return [
            (a.double() - b.double()).norm() / (1 + b.double().norm())
            for a, b in zip(found, exact)
        ]

    exact = tail(torch.float64, 'reference', True, False, memory_format, dtype)
    reference = errors('reference')
    with as_on_gpu():
        ours = errors(path)
    eps = torch.finfo(dtype).eps
    assert all(a <= 2 * b + eps for a, b in zip(ours, reference))


@pytest.mark.parametrize('memory_format', FORMATS)
def test_gates_near_one(memory_format):
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
    with as_on_gpu():
        found = run('given', F, x, dy)
    eps = torch.finfo(torch.bfloat16).eps
    for a, b in zip(found, exact):
        assert (a - b).abs().le(0.501 * eps * b.abs() + 1e-6).all()


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('path', ['fused', 'given'])
def test_training_step(path, memory_format):
    """Loss, gradients and statistics of a ResNet-18 in float64."""
    torch.manual_seed(0)
    model = RAResNet(18, base_channels=8, stem_channels=8, norm_eval=False).double()
    for name, p in model.named_parameters():
        if name.endswith('gamma'):
            nn.init.normal_(p, std=0.1)
    images = torch.randn(2, 3, 64, 48).double().to(memory_format=memory_format)

    def step():
        m = copy.deepcopy(model).train().to(memory_format=memory_format)
        with force_path(path):
            loss = sum(y.square().mean() for y in m(images))
        loss.backward()
        grads = {k: p.grad for k, p in m.named_parameters()}
        return dict(loss=loss, **grads, **dict(m.named_buffers()))

    expected = step()
    with as_on_gpu():
        found = step()
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
