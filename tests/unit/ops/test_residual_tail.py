"""The fused paths of the residual tail against the reference and autograd."""

import copy
import inspect
import os
import re
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from ra_mm.layers import ReverseAttention, force_path
from ra_mm.ops import dispatch

NODES = dict(given='_TailBackward', fused='_BNTailBackward')
FORMATS = [torch.contiguous_format, torch.channels_last]


class Tail(nn.Module):
    """The end of a block, after its last convolution."""

    def __init__(self, channels, norm, act):
        super().__init__()
        self.norm = norm
        self.attention = ReverseAttention(channels)
        self.act = act

    def forward(self, z, x):
        return self.attention.tail(z, self.norm, x, self.act)


def tail_and_inputs(shape=(3, 4, 5, 2), dtype=torch.float64, relu=True, **bn):
    """A tail whose every weight and statistic matters, and z and x."""
    g = torch.Generator().manual_seed(0)
    C = shape[1]
    act = nn.ReLU(inplace=True) if relu else nn.Identity()
    module = Tail(C, nn.BatchNorm2d(C, **bn), act)
    for t in module.state_dict().values():
        if t.dtype.is_floating_point and t.ndim:
            t.normal_(generator=g)
    if module.norm.running_var is not None:
        module.norm.running_var.uniform_(0.5, 2, generator=g)
    module.attention.gate.temp.fill_(0.7)
    module = module.to(dtype if dtype == torch.float64 else torch.float32)
    z, x = torch.randn(2, *shape, dtype=torch.float64, generator=g)
    return module, z.to(dtype), x.to(dtype)


def path_of(y):
    """The path that computed y, from its node in autograd's graph."""
    node = y.grad_fn
    if node.name() not in NODES.values():
        node = node.next_functions[0][0]  # the activation's input
    names = {v: k for k, v in NODES.items()}
    return names.get(node.name(), 'reference')


def run(path, module, z, x):
    """y, the gradients of all inputs and parameters, the new statistics."""
    module = copy.deepcopy(module)
    z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
    with force_path(path):
        y = module(z, x)
    g = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, dtype=torch.float64, generator=g).to(y.dtype)
    grads = torch.autograd.grad(y, [z, x, *module.parameters()], dy)
    return dict(
        zip(['y', 'dz', 'dx', *dict(module.named_parameters())], [y, *grads]),
        **dict(module.named_buffers()),
    ), y


def error(a, exact):
    scale = exact.double().norm()
    return ((a.double() - exact.double()).norm() / scale.clamp(min=1)).item()


# Gradients


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'given', 'reference'])
def test_gradients(path, training, affine, relu, memory_format):
    module, z, x = tail_and_inputs((3, 3, 2, 2), relu=relu, affine=affine)
    module.train(training)
    z, x = (t.to(memory_format=memory_format).requires_grad_() for t in (z, x))

    def call(z, x, *parameters):
        with force_path(path):
            return module(z, x)

    assert path_of(call(z, x)) == path
    assert gradcheck(call, (z, x, *module.parameters()))


@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'given'])
def test_second_derivatives(path, training, relu):
    """Also where z is computed from x, as in a block."""
    module, z, x = tail_and_inputs((2, 2, 2, 1), relu=relu)
    module.train(training)

    def call(z, x, *parameters):
        with force_path(path):
            return module(z * x.cos(), x)

    inputs = (z.requires_grad_(), x.requires_grad_(), *module.parameters())
    assert path_of(call(*inputs)) == path
    assert gradgradcheck(call, inputs)


def test_only_some_inputs_learn():
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


def zero_planes(z, module):
    """Some F exactly 0: bias 0, and z at the running mean."""
    module.norm.bias.data.zero_()
    module.norm.running_mean.zero_()
    z[0, 1] = 0
    z[1] = 0


def zero_weight(z, module):
    """F = 0 everywhere: the usual state at the start."""
    module.norm.weight.data.zero_()
    module.norm.bias.data.zero_()


def far_mean(z, module):
    """|mean| / std = 1000."""
    z.add_(1000)
    module.norm.running_mean.fill_(1000)


def large(z, module):
    """A sum of squares beyond float16."""
    z.mul_(1000)


def as_it_is(z, module):
    pass


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('path', ['fused', 'given'])
@pytest.mark.parametrize(
    'dtype, change, shape',
    [
        (torch.float32, as_it_is, (3, 6, 17, 16)),
        (torch.float32, as_it_is, (5, 6, 1, 1)),
        (torch.float32, as_it_is, (1, 6, 17, 16)),
        (torch.float32, zero_planes, (3, 6, 17, 16)),
        (torch.float32, zero_weight, (3, 6, 17, 16)),
        (torch.float32, far_mean, (3, 6, 17, 16)),
        (torch.bfloat16, as_it_is, (3, 6, 17, 16)),
        (torch.bfloat16, zero_planes, (3, 6, 17, 16)),
        (torch.float16, as_it_is, (3, 6, 17, 16)),
        (torch.float16, zero_weight, (3, 6, 17, 16)),
        (torch.float16, large, (3, 6, 17, 16)),
    ],
)
def test_equals_reference(dtype, change, shape, path, training, memory_format):
    """As near to the float64 result as the reference is."""
    module, z, x = tail_and_inputs(shape, dtype)
    change(z, module)
    module.train(training)
    z, x = (t.to(memory_format=memory_format) for t in (z, x))
    exact, _ = run('reference', copy.deepcopy(module).double(), z.double(), x.double())
    reference, _ = run('reference', module, z, x)
    ours, y = run(path, module, z, x)
    assert path_of(y) == path
    assert y.is_contiguous(memory_format=memory_format)
    assert set(ours) == set(exact)
    for name, value in exact.items():
        assert ours[name].dtype == reference[name].dtype, name
        assert ours[name].isfinite().all(), name
        tolerance = 4 * torch.finfo(dtype).eps
        if change is far_mean:
            tolerance *= 1000
        assert error(ours[name], value) <= tolerance + 3 * error(
            reference[name], value
        ), name


@pytest.mark.parametrize('path', ['fused', 'given'])
def test_zero_residual(path):
    """F = 0: y = relu(x) and the gradients of the plain sum, exactly."""
    module, z, x = tail_and_inputs()
    zero_weight(z, module)
    z.requires_grad_(), x.requires_grad_()
    with force_path(path):
        y = module(z, x)
    assert path_of(y) == path and torch.equal(y, x.relu())
    dx, dgamma = torch.autograd.grad(y.square().sum(), [x, module.attention.gate.gamma])
    assert torch.equal(dx, 2 * x.relu())
    assert torch.equal(dgamma, torch.zeros(4))


@pytest.mark.parametrize('training', [True, False])
def test_empty_batch(training):
    module, z, x = tail_and_inputs()
    module.train(training)
    z, x = z[:0].requires_grad_(), x[:0].requires_grad_()
    y = module(z, x)
    assert path_of(y) == 'reference' and y.shape == (0, 4, 5, 2)
    y.sum().backward()
    assert torch.equal(module.attention.gate.gamma.grad, torch.zeros(4))


def test_one_value_a_channel():
    """As batch norm refuses it."""
    module, z, x = tail_and_inputs((1, 4, 1, 1))
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        module(z, x)
    module.eval()
    with force_path('reference'):
        expected = module(z, x)
    torch.testing.assert_close(module(z, x), expected)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_inference(dtype, memory_format):
    """Without gradients; the inputs stay what they are."""
    module, z, x = tail_and_inputs((3, 6, 17, 16), dtype)
    module.eval()
    z, x = (t.to(memory_format=memory_format) for t in (z, x))
    copies = z.clone(), x.clone()
    expected, _ = run('reference', module, z, x)
    for no_grad in (torch.no_grad, torch.inference_mode):
        for path in ('fused', 'given'):
            with no_grad(), force_path(path):
                y = module(z, x)
            assert error(y, expected['y']) < 2 * torch.finfo(dtype).eps
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
def test_running_statistics(options, memory_format):
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


def test_statistics_that_are_not_tracked_any_more():
    module, z, x = tail_and_inputs()
    module.norm.track_running_stats = False
    before = copy.deepcopy(module.norm.state_dict())
    ours, _ = run('fused', module, z, x)
    expected, _ = run('reference', module, z, x)
    torch.testing.assert_close(ours, expected)
    assert torch.equal(ours['norm.running_mean'], before['running_mean'])


# Which path


class OtherBN(nn.BatchNorm2d):
    pass


def hook(*args):
    pass


def hooked(name, method):

    def change(module):
        getattr(getattr(module, name), method)(hook)

    return change


def replaced(name, value):

    def change(module):
        setattr(module, name, value)

    return change


def patched(module):
    module.norm.forward = module.norm.forward


@pytest.mark.parametrize(
    'change, path',
    [
        (lambda module: None, 'fused'),
        (lambda module: module.eval(), 'fused'),
        (hooked('act', 'register_forward_hook'), 'fused'),
        (replaced('act', nn.GELU()), 'fused'),
        (replaced('act', nn.ReLU6(inplace=True)), 'fused'),
        (hooked('norm', 'register_forward_hook'), 'given'),
        (hooked('norm', 'register_forward_pre_hook'), 'given'),
        (hooked('norm', 'register_full_backward_hook'), 'given'),
        (hooked('norm', 'register_full_backward_pre_hook'), 'given'),
        (patched, 'given'),
        (replaced('norm', OtherBN(4)), 'given'),
        (replaced('norm', nn.SyncBatchNorm(4).eval()), 'given'),
        (replaced('norm', nn.GroupNorm(2, 4)), 'given'),
        (replaced('norm', nn.Identity()), 'given'),
        (replaced('norm', nn.Dropout(0.5)), 'given'),
        (hooked('attention', 'register_forward_hook'), 'reference'),
        (hooked('attention', 'register_forward_pre_hook'), 'reference'),
        (lambda m: m.attention.gate.register_forward_hook(hook), 'reference'),
        (replaced('attention', ReverseAttention(4, aggregation='l1')), 'reference'),
        (replaced('attention', ReverseAttention(4, normalization='bn')), 'reference'),
        (replaced('attention', type('Own', (ReverseAttention,), {})(4)), 'reference'),
    ],
)
def test_choice(change, path):
    module, z, x = tail_and_inputs(dtype=torch.float32)
    change(module)
    for forced in ('fused', 'given', 'reference'):
        torch.manual_seed(0)  # of the dropout
        ours, y = run(forced, module, z, x)
        simplest = max(forced, path, key=['fused', 'given', 'reference'].index)
        assert path_of(y) == simplest
        torch.manual_seed(0)
        expected, _ = run('reference', module, z, x)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_hooks_see_what_they_would_see():
    module, z, x = tail_and_inputs()
    seen = {}
    for name in ('norm', 'attention', 'act'):
        getattr(module, name).register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: out.clone()})
        )
    y = module(z, x)
    F = copy.deepcopy(module.norm)(z)
    torch.testing.assert_close(seen['norm'], F)
    torch.testing.assert_close(seen['attention'], module.attention(F, x))
    torch.testing.assert_close(seen['act'], y)


def test_global_hooks():
    """Of torch.utils' counters, for example."""
    module, z, x = tail_and_inputs()
    calls = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, args, out: calls.append(type(m).__name__)
    )
    module(z, x)
    handle.remove()
    assert calls == ['BatchNorm2d', 'MGRN', 'ReverseAttention', 'ReLU', 'Tail']


def test_mixed_dtypes_and_other_tensors():
    module, z, x = tail_and_inputs(dtype=torch.float32)
    assert path_of(module(z.bfloat16(), x)) == 'reference'

    class Other(torch.Tensor):
        pass

    assert path_of(module(z.as_subclass(Other), x)) == 'reference'


def test_force_path():
    module, z, x = tail_and_inputs()
    with pytest.raises(ValueError, match="path='fast'"):
        with force_path('fast'):
            pass
    with pytest.raises(ZeroDivisionError):
        with force_path('reference'):
            with force_path('given'):
                assert path_of(module(z, x)) == 'given'
            assert path_of(module(z, x)) == 'reference'
            raise ZeroDivisionError
    assert path_of(module(z, x)) == 'fused'


@pytest.mark.parametrize('value, path', [('given', 'given'), ('fast', 'fused')])
def test_environment_variable(value, path):
    """An unknown path is ignored with a warning that names the variable."""
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'from ra_mm.ops import dispatch; print(dispatch.get_path())',
        ],
        env=dict(os.environ, RA_MM_TAIL=value),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == path
    assert ('RA_MM_TAIL' in done.stderr) == (value == 'fast')


def test_hook_dicts_exist():
    """The hooks that dispatch looks at are those of the installed PyTorch."""
    module = nn.ReLU()
    source = inspect.getsource(nn.Module._call_impl)
    fast_path = source[: source.index('return forward_call')]
    for name in dispatch.MODULE_HOOKS:
        assert not getattr(module, name)
        fast_path = re.sub(rf'self\.{name}\b', '', fast_path)
    for name in dispatch.GLOBAL_HOOKS:
        assert not getattr(nn.modules.module, name)
        fast_path = re.sub(rf'\b{name}\b', '', fast_path)
    assert 'hooks' not in fast_path.split('if not', 1)[1]


# What torch does with modules


@pytest.mark.parametrize('training', [True, False])
def test_tracing_and_export(training, monkeypatch):
    """Another runtime sees the reference's operators, and nothing of ours."""
    module, z, x = tail_and_inputs(dtype=torch.float32)
    module.train(training)
    with force_path('reference'):
        expected = module(z, x)
    traced = torch.jit.trace(module, (z, x))
    assert 'PythonOp' not in str(traced.graph)
    torch.testing.assert_close(traced(z, x), expected)
    exported = torch.export.export(module, (z, x)).module()
    torch.testing.assert_close(exported(z, x), expected)
    graph = torch.fx.symbolic_trace(module)
    torch.testing.assert_close(graph(z, x), expected)
    monkeypatch.setattr(torch.onnx, 'is_in_onnx_export', lambda: True)
    assert path_of(module(z, x)) == 'reference'


def test_function_transforms():
    module, z, x = tail_and_inputs()
    module.eval()
    expected = module(z, x)
    y = torch.func.vmap(lambda z, x: module(z[None], x[None])[0])(z, x)
    torch.testing.assert_close(y, expected)
    y, tangent = torch.func.jvp(lambda z: module(z, x), (z,), (x,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(module(forward_ad.make_dual(z, x), x))
    torch.testing.assert_close(dual.primal, expected)
    torch.testing.assert_close(dual.tangent, tangent)


@pytest.mark.parametrize('path', ['fused', 'given'])
@pytest.mark.parametrize('training', [True, False])
def test_changing_temp_does_not_recompile(path, training):
    """One graph without breaks for all temps, with the same results."""
    module, z, x = tail_and_inputs(dtype=torch.float32)
    module.train(training)
    compilations = []

    def backend(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    eager = copy.deepcopy(module)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    for temp in (30.0, 20.5, 1.0):
        for m in (eager, module):
            m.attention.gate.temp.fill_(temp)
        results = []
        for m in (eager, compiled):
            z, x = (t.detach().requires_grad_() for t in (z, x))
            with force_path(path):
                y = m(z, x)
            results.append(
                (y, *torch.autograd.grad(y.square().sum(), [z, x, *m.parameters()]))
            )
        for a, b in zip(*results):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.state_dict(), eager.state_dict())
    assert len(compilations) == 1


@pytest.mark.parametrize('training', [True, False])
def test_compiled_path(training):
    """Forward and backward pass through inductor, each as one graph."""
    module, z, x = tail_and_inputs(dtype=torch.float32)
    module.train(training)
    torch._dynamo.reset()
    ours, y = run('compiled', module, z, x)
    expected, _ = run('reference', module, z, x)
    assert path_of(y) == 'fused'
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


# Several processes


class SyncedNorm(nn.Module):
    """Batch norm over all processes, as SyncBN, which needs a GPU."""

    def __init__(self, bn):
        super().__init__()
        self.weight, self.bias = bn.weight, bn.bias

    def forward(self, z):
        M = torch.tensor(z.numel() / z.shape[1], dtype=z.dtype)
        M = all_reduce(M)
        mean = (all_reduce(z.sum(dim=(0, 2, 3))) / M)[:, None, None]
        z = z - mean
        var = (all_reduce(z.square().sum(dim=(0, 2, 3))) / M)[:, None, None]
        return (
            z / (var + 1e-5).sqrt() * self.weight[:, None, None]
            + (self.bias[:, None, None])
        )


def train_on_share(rank, store, results):
    """The gradients of a process that has some of the 5 images."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=rank, world_size=2
    )
    module, z, x = tail_and_inputs((5, 4, 3, 2))
    module.norm = SyncedNorm(module.norm)
    share = (slice(3), slice(3, 5))[rank]
    z, x = z[share].requires_grad_(), x[share].requires_grad_()
    ddp = DistributedDataParallel(module)
    y = ddp(z, x)
    assert path_of(y) == 'given'
    (2 * y.square().sum()).backward()  # DDP averages over the 2
    if rank == 0:
        torch.save({k: p.grad for k, p in module.named_parameters()}, results)
    dist.barrier()
    # As the process group is destroyed, gloo's thread may wait for Python's
    # lock, and Python for the thread.
    os._exit(0)


def test_two_processes(tmp_path):
    """Two uneven shares and synchronised norms: as the whole batch in one."""
    args = tmp_path / 'store', tmp_path / 'grads'
    mp.start_processes(train_on_share, args, nprocs=2, start_method='fork')
    module, z, x = tail_and_inputs((5, 4, 3, 2))
    y = module(z, x)
    assert path_of(y) == 'fused'
    y.square().sum().backward()
    torch.testing.assert_close(
        torch.load(tmp_path / 'grads'),
        {k: p.grad for k, p in module.named_parameters()},
    )
