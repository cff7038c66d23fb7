"""Every path of the residual tail on CUDA, against the reference in float64."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.exactness import (
    DTYPES,
    LAYOUTS,
    RandomTail,
    error_norm,
    without_switches,
)
from ra_mm.layers import ReverseAttention
from ra_mm.ops import force_path

NODES = dict(fused_sum='FusedSumBackward', fused='BNTailBackward')
# Norm of the error of an output or gradient, relative to the exact one.
TOLERANCES = dict(fp32=2e-6, bf16=8e-3, fp16=1e-3)


def random_inputs(dtype, layout, shape=(6, 64, 14, 10)):
    g = torch.Generator().manual_seed(1)
    return [
        torch.randn(shape, generator=g).to(
            'cuda', DTYPES[dtype], memory_format=LAYOUTS[layout]
        )
        for _ in range(3)
    ]


def check(path, tail, inputs, tolerance):
    """Compare y and all gradients of a path with the reference in float64."""
    z, x, dy = inputs
    dy = without_switches(tail, z, x, dy)
    exact = copy.deepcopy(tail).double()
    exact = exact.outputs('reference', z.double(), x.double(), dy.double())
    found = copy.deepcopy(tail).outputs(path, z, x, dy)
    if path in NODES:
        assert found['y'].grad_fn.name() == NODES[path]
    errors = {k: error_norm(found[k], exact[k]) for k in exact}
    assert all(e <= tolerance for e in errors.values()), errors  # NaN fails too
    return found


@pytest.mark.parametrize('trains_bn', [True, False], ids=['training', 'frozen'])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('path', ['reference', 'fused_sum', 'fused'])
def test_outputs_and_gradients(path, dtype, layout, trains_bn):
    inputs = random_inputs(dtype, layout)
    tail = RandomTail(64, 'cuda', trains_bn)
    found = check(path, tail, inputs, TOLERANCES[dtype])
    assert found['y'].is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize('path', ['fused_sum', 'fused'])
def test_zero_planes(path):
    """Planes and whole images with F = 0 have finite gradients."""
    z, x, dy = random_inputs('fp32', 'nchw')
    tail = RandomTail(64, 'cuda', trains_bn=False)
    tail.norm.bias.data.zero_()
    tail.norm.running_mean.zero_()
    z[0, 1] = 0
    z[1] = 0
    check(path, tail, (z, x, dy), TOLERANCES['fp32'])


@pytest.mark.parametrize('path', ['fused_sum', 'fused'])
def test_far_mean(path):
    """A mean of 300 standard deviations does not cancel the variance."""
    z, x, dy = random_inputs('fp32', 'nhwc')
    check(path, RandomTail(64, 'cuda', trains_bn=True), (z + 300, x, dy), 1e-3)


@pytest.mark.parametrize('path', ['fused_sum', 'fused'])
def test_large_values_in_float16(path):
    """Sums of squares beyond float16's range stay finite."""
    z, x, dy = random_inputs('fp16', 'nhwc', (2, 64, 56, 56))
    tail = RandomTail(64, 'cuda', trains_bn=False)
    check(path, tail, (100 * z, 100 * x, dy), TOLERANCES['fp16'])


def test_running_statistics():
    z, x, dy = random_inputs('bf16', 'nhwc')
    norms = []
    for path in ('reference', 'fused'):
        tail = RandomTail(64, 'cuda', trains_bn=True)
        tail.outputs(path, z, x, dy)
        norms.append(tail.norm)
    for reference, fused in zip(*(norm.buffers() for norm in norms)):
        torch.testing.assert_close(fused, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('path', ['fused_sum', 'fused'])
def test_second_derivatives(path):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double().cuda()
    attention = ReverseAttention(3).double().cuda()
    nn.init.normal_(attention.gate.gamma)
    z, x = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, device='cuda')

    def call(z, x):
        with force_path(path):
            return attention.tail(z, norm, x, nn.Identity())

    inputs = z.requires_grad_(), x.requires_grad_()
    assert torch.autograd.gradgradcheck(call, inputs, nondet_tol=1e-9)
