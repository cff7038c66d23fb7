"""Which path is found fastest, and that finding it changes nothing."""

import copy
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.layers import MGRN, ReverseAttention
from ra_mm.ops import (
    PATHS,
    CompilationFailed,
    force_path,
    get_path,
    set_path,
    set_training_path,
    tuning,
)
from ra_mm.ops.paths import max_path


class Blocks(nn.Module):
    """Two RA blocks with dropout; the first is in channels-last."""

    def __init__(self, norm=nn.BatchNorm2d, frozen=False, **gate):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in '12')
        self.norms = nn.ModuleList(norm(4) for _ in '12')
        self.attentions = nn.ModuleList(ReverseAttention(4, **gate) for _ in '12')
        self.act = nn.ReLU(inplace=True)
        if frozen:  # the first block
            for module in (self.convs[0], self.norms[0], self.attentions[0]):
                module.requires_grad_(False)

    def forward(self, x):
        x = x.to(memory_format=torch.channels_last)
        for conv, norm, attention in zip(self.convs, self.norms, self.attentions):
            x = nn.functional.dropout(x, 0.1)
            x = attention.tail(conv(x), norm, x, self.act)
            x = x.contiguous()
        return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Blocks()


def forward(model):
    return model(torch.randn(2, 4, 6, 5) + random.random() + np.random.rand())


def amp(model):
    with torch.autocast('cpu', torch.bfloat16):
        forward(model)


def states():
    return [
        *torch.get_rng_state().tolist(),
        random.getstate(),
        *np.random.get_state()[1],
    ]


def test_nothing_changes(model):
    weights, before = copy.deepcopy(model.state_dict()), states()
    classes = [type(m) for m in model.modules()]
    choice = tuning.fastest_path(model, forward)
    assert set(choice.seconds) == {'reference', 'fused_sum', 'fused'}
    assert all(s > 0 for s in choice.seconds.values())
    assert choice.path in choice.seconds and f'{choice.path!r}' in str(choice)
    assert states() == before and get_path() is None
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    assert [type(m) for m in model.modules()] == classes


def test_tails_are_those_of_the_model(model):
    """Shapes, dtypes, layouts and autocast."""
    first, second = tuning.record_tails(model, amp)
    assert first.z.shape == second.x.shape == (2, 4, 6, 5)
    assert first.z.dtype == torch.bfloat16 and first.autocast == torch.bfloat16
    assert first.x.is_contiguous(memory_format=torch.channels_last)
    assert second.x.is_contiguous()
    assert first.z.requires_grad and not first.x.requires_grad
    assert second.x.requires_grad and len(second.learning()) == 3
    assert first.norm is not model.norms[0]
    assert all(c.autocast is None for c in tuning.record_tails(model, forward))


def test_frozen_tails_have_no_choice():
    model = Blocks(frozen=True)
    (call,) = tuning.record_tails(model, forward)
    assert call.x.dtype == torch.float32 and call.x.is_contiguous()
    with pytest.raises(ValueError, match='no reverse attention'):
        tuning.fastest_path(model.requires_grad_(False), forward)


def test_norms_in_float32_under_autocast():
    """As autocast runs GroupNorm on a GPU; x is the output of another one."""

    class Norm(nn.GroupNorm):
        def forward(self, z):
            return super().forward(z.float())

    for call in tuning.record_tails(Blocks(lambda channels: Norm(2, channels)), amp):
        assert call.z.dtype == torch.float32 and call.z.requires_grad


def test_norms_that_synchronize_do_not_run():
    model = Blocks(nn.SyncBatchNorm).eval()
    choice = tuning.fastest_path(model, forward)
    assert set(choice.seconds) == {'reference', 'fused_sum'}


@pytest.mark.parametrize(
    'model', [nn.Conv2d(4, 4, 1), Blocks(aggregation='l1')], ids=['no RA', 'ablation']
)
def test_no_choice_of_paths(model):
    with pytest.raises(ValueError, match='no reverse attention'):
        tuning.fastest_path(model, forward)


@pytest.fixture
def measured(monkeypatch):
    """Set the seconds of each path, and whether there is a compiler."""

    def call(compiler=True, **seconds):
        def time_paths(calls, inputs, paths):
            found = {p: seconds[p] for p in paths if p in seconds}
            return found, {p: 'failed' for p in paths if p not in seconds}

        monkeypatch.setattr(tuning, 'time_paths', time_paths)
        monkeypatch.setattr(tuning, 'compiler_available', lambda device: compiler)

    return call


@pytest.mark.parametrize(
    'seconds, path',
    [
        (dict(reference=3, fused_sum=2, fused=2.05), 'fused'),  # fewer activations
        (dict(reference=3, fused_sum=2, fused=2.1), 'fused_sum'),
        (dict(reference=2, fused_sum=2.1, fused=3), 'reference'),
        (dict(reference=3, fused_sum=2.1), 'fused_sum'),
        (dict(reference=3, fused_sum=2, fused=4, compiled=1), 'compiled'),
        (dict(reference=3, fused_sum=2, fused=1, compiled=1), 'fused'),
    ],
)
def test_choice(model, measured, seconds, path):
    measured(**seconds)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', CompilationFailed)
        choice = tuning.fastest_path(model, forward, steps=10**6)
    assert choice.path == path and choice.seconds == seconds
    assert set(choice.notes) == set(PATHS) - set(seconds)


@pytest.mark.parametrize('steps, compiler', [(600, True), (6001, False), (6001, True)])
def test_when_compilation_is_tried(model, measured, steps, compiler):
    """A tenth of 6000 steps of 0.1 s is a minute."""
    measured(compiler, reference=1, fused_sum=1, fused=0.1, compiled=0.05)
    choice = tuning.fastest_path(model, forward, steps)
    tried = compiler and steps > 6000
    assert choice.path == ('compiled' if tried else 'fused')
    assert ('compiled' in choice.notes) != tried


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 runs them eagerly')
def test_compilation_fails(model, monkeypatch, use_compiler):
    """One warning, and the choice is among the others."""

    def broken(function, **kwargs):
        raise RuntimeError('no such compiler')

    use_compiler(broken)
    monkeypatch.setattr(tuning, 'compilation_pays', lambda *_: True)
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: True)
    with pytest.warns(CompilationFailed, match='no such compiler') as caught:
        choice = tuning.fastest_path(model, forward)
    assert len(caught) == 1
    assert 'no such compiler' in choice.notes['compiled']
    assert choice.path in ('reference', 'fused_sum', 'fused')


def test_out_of_memory(model, monkeypatch):
    """One path needs too much; only the reference runs the gate as a module."""

    def too_much(gate, F):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(MGRN, 'forward', too_much)
    choice = tuning.fastest_path(model, forward)
    assert choice.notes['reference'] == 'out of memory'
    assert set(choice.seconds) == {'fused_sum', 'fused'}


def test_default_paths():
    """'fused_sum' for gradients on a GPU; what is set for training spares the rest."""
    learns, frozen = (
        SimpleNamespace(is_cuda=True, requires_grad=yes) for yes in (True, False)
    )
    assert max_path(learns, frozen) == 'fused_sum'
    assert max_path(frozen, frozen) == 'fused'
    with torch.no_grad():
        assert max_path(learns) == 'fused'
    try:
        set_training_path('compiled')
        assert max_path(learns) == 'compiled' and max_path(frozen) == 'fused'
        with force_path('reference'):
            assert max_path(learns) == max_path(frozen) == 'reference'
    finally:
        set_training_path(None)
    for set_ in (set_path, set_training_path):
        with pytest.raises(ValueError, match="path='fast'"):
            set_('fast')
