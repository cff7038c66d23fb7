"""Which path computes the tail of a block, and how to force one."""

import copy
import importlib.util
import inspect
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ra_mm.layers import GatedResidual, ReverseAttention
from ra_mm.ops import force_path, paths


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
        (hooked('norm', 'register_forward_hook'), 'fused_sum'),
        (hooked('norm', 'register_forward_pre_hook'), 'fused_sum'),
        (hooked('norm', 'register_full_backward_hook'), 'fused_sum'),
        (hooked('norm', 'register_full_backward_pre_hook'), 'fused_sum'),
        (patched, 'fused_sum'),
        (replaced('norm', OtherBN(4)), 'fused_sum'),
        (replaced('norm', nn.SyncBatchNorm(4).eval()), 'fused_sum'),
        (replaced('norm', nn.GroupNorm(2, 4)), 'fused_sum'),
        (replaced('norm', nn.Identity()), 'fused_sum'),
        (replaced('norm', nn.Dropout(0.5)), 'fused_sum'),
        (hooked('attention', 'register_forward_hook'), 'reference'),
        (hooked('attention', 'register_forward_pre_hook'), 'reference'),
        (lambda m: m.attention.gate.register_forward_hook(hook), 'reference'),
        (replaced('attention', ReverseAttention(4, aggregation='l1')), 'reference'),
        (replaced('attention', ReverseAttention(4, normalization='bn')), 'reference'),
        (replaced('attention', type('Same', (ReverseAttention,), {})(4)), 'fused'),
        (replaced('attention', GatedResidual(4)), 'reference'),
    ],
)
def test_choice(change, path, tail_and_inputs, path_of, run):
    module, z, x = tail_and_inputs(dtype=torch.float32)
    change(module)
    for forced in ('fused', 'fused_sum', 'reference'):
        torch.manual_seed(0)  # of the dropout
        ours, y = run(forced, module, z, x)
        simplest = max(forced, path, key=['fused', 'fused_sum', 'reference'].index)
        assert path_of(y) == simplest
        torch.manual_seed(0)
        expected, _ = run('reference', module, z, x)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_hooks_see_what_they_would_see(tail_and_inputs):
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


def test_global_hooks(tail_and_inputs):
    """Hooks on all modules, such as those of torch.utils' counters."""
    module, z, x = tail_and_inputs()
    calls = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, args, out: calls.append(type(m).__name__)
    )
    module(z, x)
    handle.remove()
    assert calls == ['BatchNorm2d', 'MGRN', 'ReverseAttention', 'ReLU', 'Tail']


def test_mixed_dtypes_and_other_tensors(tail_and_inputs, path_of):
    module, z, x = tail_and_inputs(dtype=torch.float32)
    assert path_of(module(z.bfloat16(), x)) == 'reference'

    class Other(torch.Tensor):
        pass

    assert path_of(module(z.as_subclass(Other), x)) == 'reference'


def test_force_path(tail_and_inputs, path_of):
    module, z, x = tail_and_inputs()
    with pytest.raises(ValueError, match="path='fast'"):
        with force_path('fast'):
            pass
    with pytest.raises(ZeroDivisionError):
        with force_path('reference'):
            with force_path('fused_sum'):
                assert path_of(module(z, x)) == 'fused_sum'
            assert path_of(module(z, x)) == 'reference'
            raise ZeroDivisionError
    assert path_of(module(z, x)) == 'fused'


@pytest.mark.parametrize('value, path', [('fused_sum', 'fused_sum'), ('fast', 'fused')])
def test_environment_variable(value, path, monkeypatch, recwarn):
    """An unknown path is ignored with a warning that names the variable."""
    monkeypatch.setenv('RA_MM_TAIL', value)
    spec = importlib.util.spec_from_file_location('fresh_paths', paths.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.max_path(torch.ones(1)) == path
    assert any('RA_MM_TAIL' in str(w.message) for w in recwarn) == (value == 'fast')


def test_default_paths():
    """'fused_sum' for gradients on a GPU."""
    learns, frozen = (
        SimpleNamespace(is_cuda=True, requires_grad=yes) for yes in (True, False)
    )
    assert paths.max_path(learns, frozen) == 'fused_sum'
    assert paths.max_path(frozen, frozen) == 'fused'
    with torch.no_grad():
        assert paths.max_path(learns) == 'fused'


def test_hook_dicts_exist():
    """The hooks that are looked at are those of the installed PyTorch."""
    module = nn.ReLU()
    source = inspect.getsource(nn.Module._call_impl)
    fast_path = source[: source.index('return forward_call')]
    for name in paths.MODULE_HOOKS:
        assert not getattr(module, name)
        fast_path = re.sub(rf'self\.{name}\b', '', fast_path)
    for name in paths.GLOBAL_HOOKS:
        assert not getattr(nn.modules.module, name)
        fast_path = re.sub(rf'\b{name}\b', '', fast_path)
    assert 'hooks' not in fast_path.split('if not', 1)[1]
