"""The fused paths of the residual tail against the reference and autograd."""

import copy
import functools
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ra_mm._torch import cpu_mixes_dtypes
from ra_mm.ops import cpu_reductions, force_path

as_on_gpu = functools.partial(mock.patch.object, cpu_reductions, 'as_on_gpu', True)
FORMATS = [torch.contiguous_format, torch.channels_last]

# Gradients


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'fused_sum', 'reference'])
def test_gradients(
    path, training, affine, relu, memory_format, tail_and_inputs, path_of
):
    module, z, x = tail_and_inputs((3, 3, 2, 2), relu=relu, affine=affine)
    module.train(training)
    z, x = (t.to(memory_format=memory_format).requires_grad_() for t in (z, x))

    def call(z, x, *parameters):
        with force_path(path):
            return module(z, x)

    assert path_of(call(z, x)) == path
    assert gradcheck(call, (z, x, *module.parameters()))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'fused_sum'])
@pytest.mark.parametrize('shape', [(3, 4, 7), (2, 3, 2, 3, 4)])
def test_signals_and_volumes(shape, path, training, tail_and_inputs, path_of, run):
    """One and three spatial dimensions, of any memory format, on CPU and GPU."""
    module, z, x = tail_and_inputs(shape)
    module.train(training)
    expected, _ = run('reference', module, z, x)
    for on_gpu, last in ((False, False), (False, True), (True, False)):
        if last:  # the channels
            z, x = (t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (z, x))
        with as_on_gpu() if on_gpu else nullcontext():
            result, y = run(path, module, z, x)
        assert path_of(y) == path
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'fused_sum'])
def test_second_derivatives(path, training, relu, tail_and_inputs, path_of):
    """z is computed from x, as in a block."""
    module, z, x = tail_and_inputs((2, 2, 2, 1), relu=relu)
    module.train(training)

    def call(z, x, *parameters):
        with force_path(path):
            return module(z * x.cos(), x)

    inputs = (z.requires_grad_(), x.requires_grad_(), *module.parameters())
    assert path_of(call(*inputs)) == path
    assert gradgradcheck(call, inputs)


def test_only_some_inputs_learn(tail_and_inputs, path_of):
    """A frozen norm, and a shortcut without gradient."""
    module, z, x = tail_and_inputs()
    module.norm.requires_grad_(False)
    grads = []
    for path in ('fused', 'reference'):
        with force_path(path):
            y = module(z.requires_grad_(), x)
        assert path_of(y) == path
        grads.append(
            torch.autograd.grad(y.square().sum(), [z, module.attention.gate.gamma])
        )
    torch.testing.assert_close(*grads)


# Equality with the reference


def zero_planes(module, z, x):
    """Some F exactly 0: bias 0, and z at the running mean."""
    module.norm.bias.data.zero_()
    module.norm.running_mean.zero_()
    z[0, 1] = 0
    z[1] = 0


def zero_weight(module, z, x):
    """F = 0 everywhere: the usual state at the start."""
    module.norm.weight.data.zero_()
    module.norm.bias.data.zero_()


def far_mean(module, z, x):
    """|mean| / std = 1000."""
    z.add_(1000)
    module.norm.running_mean.fill_(1000)


def large(module, z, x):
    """F and x around 200: the sums of squares (2.5e8) are beyond float16."""
    module.norm.bias.data.fill_(200)
    x.add_(200)


def as_it_is(module, z, x):
    pass


LARGE = (2, 4, 64, 96)
SHAPE = (3, 6, 17, 16)


@pytest.mark.parametrize('device', [nullcontext, as_on_gpu], ids=['cpu', 'gpu'])
@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'fused_sum'])
@pytest.mark.parametrize(
    'dtype, change, shape',
    [
        (torch.float32, zero_planes, SHAPE),
        (torch.float32, as_it_is, SHAPE),
        (torch.float32, as_it_is, (5, 6, 1, 1)),
        (torch.float32, as_it_is, (1, 6, 17, 16)),
        (torch.float32, zero_weight, SHAPE),
        (torch.float32, far_mean, SHAPE),
        (torch.bfloat16, as_it_is, SHAPE),
        (torch.bfloat16, large, LARGE),
        (torch.float16, zero_planes, SHAPE),
        (torch.float16, zero_weight, SHAPE),
        (torch.float16, large, LARGE),
    ],
)
def test_equals_reference(
    dtype, change, shape, path, training, memory_format, device, request
):
    """About as close to the float64 result as the reference is."""
    if dtype == torch.float16 and torch.__version__ < (2, 4):
        pytest.skip('no batch norm in float16 on the CPU in PyTorch 2.1')
    if dtype in (torch.bfloat16, torch.float16) and not cpu_mixes_dtypes():
        pytest.skip('the CPU has no such operations in PyTorch 2.1')
    tail_and_inputs, run, path_of = map(
        request.getfixturevalue, ('tail_and_inputs', 'run', 'path_of')
    )
    # The code for GPUs rounds less often than the reference, which may switch a ReLU.
    module, z, x = tail_and_inputs(shape, dtype, relu=device is nullcontext)
    change(module, z, x)
    module.train(training)
    z, x = (t.to(memory_format=memory_format) for t in (z, x))
    exact, _ = run('reference', copy.deepcopy(module).double(), z.double(), x.double())
    reference, _ = run('reference', module, z, x)
    with device():
        ours, y = run(path, module, z, x)
    assert path_of(y) == path
    assert y.is_contiguous(memory_format=memory_format)
    assert set(ours) == set(exact)
    tolerance = (1000 if change is far_mean else 4) * torch.finfo(dtype).eps
    for name, value in exact.items():
        assert ours[name].dtype == reference[name].dtype, name
        assert ours[name].isfinite().all() and reference[name].isfinite().all(), name
        error, allowed = (
            (t.double() - value.double()).norm() / value.double().norm().clamp(min=1)
            for t in (ours[name], reference[name])
        )
        assert error <= tolerance + 3 * allowed, name


@pytest.mark.parametrize('path', ['fused', 'fused_sum'])
def test_zero_residual(path, tail_and_inputs, path_of):
    """F = 0: y = relu(x) and the gradients of the plain sum, exactly."""
    module, z, x = tail_and_inputs()
    zero_weight(module, z, x)
    z.requires_grad_(), x.requires_grad_()
    with force_path(path):
        y = module(z, x)
    assert path_of(y) == path and torch.equal(y, x.relu())
    dx, dgamma = torch.autograd.grad(y.square().sum(), [x, module.attention.gate.gamma])
    assert torch.equal(dx, 2 * x.relu())
    assert torch.equal(dgamma, torch.zeros(4))


@pytest.mark.parametrize('training', [True, False])
def test_empty_batch(training, tail_and_inputs, path_of):
    module, z, x = tail_and_inputs()
    module.train(training)
    z, x = z[:0].requires_grad_(), x[:0].requires_grad_()
    y = module(z, x)
    assert path_of(y) == 'reference' and y.shape == (0, 4, 5, 2)
    y.sum().backward()
    assert torch.equal(module.attention.gate.gamma.grad, torch.zeros(4))


def test_one_value_a_channel(tail_and_inputs):
    """It raises batch norm's own error."""
    module, z, x = tail_and_inputs((1, 4, 1, 1))
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        module(z, x)
    module.eval()
    with force_path('reference'):
        expected = module(z, x)
    torch.testing.assert_close(module(z, x), expected)


@pytest.mark.parametrize('device', [nullcontext, as_on_gpu], ids=['cpu', 'gpu'])
@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('path', ['fused', 'fused_sum'])
def test_inference(path, dtype, memory_format, device, tail_and_inputs):
    """Without gradients; the inputs stay what they are."""
    if dtype == torch.bfloat16 and device is as_on_gpu and not cpu_mixes_dtypes():
        pytest.skip('the CPU of PyTorch 2.1 cannot stand in for a GPU')
    module, z, x = tail_and_inputs(SHAPE, dtype)
    module.eval()
    z, x = (t.to(memory_format=memory_format) for t in (z, x))
    copies = z.clone(), x.clone()
    with force_path('reference'):
        expected = module(z, x)
    for no_grad in (torch.no_grad, torch.inference_mode):
        with no_grad(), force_path(path), device():
            y = module(z, x)
        assert (y - expected).norm() < 2 * torch.finfo(dtype).eps * expected.norm()
    assert torch.equal(z, copies[0]) and torch.equal(x, copies[1])


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(momentum=None),
        dict(momentum=0.0),
        dict(momentum=1.0),
        dict(track_running_stats=False),
        dict(eps=0.1),
    ],
)
@pytest.mark.parametrize('memory_format', FORMATS)
def test_running_statistics(options, memory_format, tail_and_inputs):
    """After three batches and in eval mode: those of batch norm itself."""
    module, z, x = tail_and_inputs(**options)
    z, x = (t.to(memory_format=memory_format) for t in (z, x))
    bn = copy.deepcopy(module.norm)
    for i in range(3):
        module(i * z + i, x)
        bn(i * z + i)
    module.eval(), bn.eval()
    module(z, x)
    assert set(module.norm.state_dict()) == set(bn.state_dict())
    for key, value in bn.state_dict().items():
        torch.testing.assert_close(module.norm.state_dict()[key], value)
    with force_path('reference'):
        expected = module(z, x)
    torch.testing.assert_close(module(z, x), expected)


def test_statistics_that_are_not_tracked_any_more(tail_and_inputs, run):
    module, z, x = tail_and_inputs()
    module.norm.track_running_stats = False
    before = copy.deepcopy(module.norm.state_dict())
    ours, _ = run('fused', module, z, x)
    expected, _ = run('reference', module, z, x)
    torch.testing.assert_close(ours, expected)
    assert torch.equal(ours['norm.running_mean'], before['running_mean'])
