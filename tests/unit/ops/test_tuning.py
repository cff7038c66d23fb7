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
from ra_mm.layers import ReverseAttention
from ra_mm.ops import dispatch, force_path, set_path, set_training_path, tuning


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


def states():
    return [
        *torch.get_rng_state().tolist(),
        random.getstate(),
        *np.random.get_state()[1],
    ]


def test_nothing_changes(model):
    weights, before = copy.deepcopy(model.state_dict()), states()
    choice = tuning.fastest_path(model, forward)
    assert set(choice.seconds) == {'reference', 'given', 'fused'}
    assert all(s > 0 for s in choice.seconds.values())
    assert choice.path in choice.seconds and f'{choice.path!r}' in str(choice)
    assert states() == before
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    assert all(p.grad is None for p in model.parameters())
    assert dispatch.get_path() is None


def test_tails_are_those_of_the_model(model):
    """Shapes, dtypes, layouts and autocast."""

    def amp(model):
        with torch.autocast('cpu', torch.bfloat16):
            forward(model.train())

    first, second = tuning.record_tails(model, amp)
    assert first.z.shape == second.x.shape == (2, 4, 6, 5)
    assert first.z.dtype == torch.bfloat16 and first.autocast == torch.bfloat16
    assert first.x.memory_format == torch.channels_last
    assert second.x.memory_format == torch.contiguous_format
    assert first.z.requires_grad and not first.x.requires_grad
    assert second.x.requires_grad and len(second.learning()) == 3
    assert first.norm is not model.norms[0]
    assert all(c.autocast is None for c in tuning.record_tails(model, forward))


def test_frozen_tails_have_no_choice():
    model = Blocks(frozen=True)
    (call,) = tuning.record_tails(model, forward)
    assert call.norm.weight.shape == (4,) and call.x.dtype == torch.float32
    assert call.x.memory_format == torch.contiguous_format
    with pytest.raises(ValueError, match='no reverse attention'):
        tuning.fastest_path(model.requires_grad_(False), forward)


def test_norms_in_float32_under_autocast():
    """As autocast runs GroupNorm on a GPU; x is the output of another one."""

    class Norm(nn.GroupNorm):
        def forward(self, z):
            return super().forward(z.float())

    model = Blocks(lambda channels: Norm(2, channels))

    def amp(model):
        with torch.autocast('cpu', torch.bfloat16):
            forward(model)

    for call in tuning.record_tails(model, amp):
        assert call.z.dtype == torch.float32 and call.z.requires_grad


def test_norms_that_synchronize_do_not_run():
    model = Blocks(nn.SyncBatchNorm).eval()
    calls = tuning.record_tails(model, forward)
    assert all(type(c.norm) is nn.Identity for c in calls)
    assert set(tuning.choose(calls, 0).seconds) == {'reference', 'given'}


@pytest.mark.parametrize(
    'model', [nn.Conv2d(4, 4, 1), Blocks(aggregation='l1')], ids=['no RA', 'ablation']
)
def test_no_choice_of_paths(model):
    with pytest.raises(ValueError, match='no reverse attention'):
        tuning.fastest_path(model, forward)


@pytest.fixture
def measured(monkeypatch):
    """Set the seconds of each path; those left out fail."""

    def call(**seconds):
        def measure(calls, inputs, paths):
            found = {p: seconds[p] for p in paths if p in seconds}
            return found, {p: 'failed' for p in paths if p not in seconds}

        monkeypatch.setattr(tuning, 'measure', measure)

    return call


@pytest.mark.parametrize(
    'seconds, path',
    [
        (dict(reference=3, given=2, fused=1), 'fused'),
        (dict(reference=3, given=2, fused=2.05), 'fused'),  # fewer activations
        (dict(reference=3, given=2, fused=2.1), 'given'),
        (dict(reference=2, given=2.1, fused=3), 'reference'),
        (dict(reference=3, given=2.1), 'given'),
        (dict(reference=3, given=2, fused=4, compiled=1), 'compiled'),
        (dict(reference=3, given=2, fused=1, compiled=1), 'fused'),
    ],
)
def test_choice(model, measured, monkeypatch, seconds, path):
    measured(**seconds)
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', dispatch.CompilationFailed)
        choice = tuning.fastest_path(model, forward, steps=10**6)
    assert choice.path == path and choice.seconds == seconds
    assert set(choice.notes) == set(dispatch.PATHS) - set(seconds)


@pytest.mark.parametrize('steps, compiler', [(600, True), (6001, False), (6001, True)])
def test_when_compilation_is_tried(model, measured, monkeypatch, steps, compiler):
    """A tenth of 6000 steps of 0.1 s is a minute."""
    measured(reference=1, given=1, fused=0.1, compiled=0.05)
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: compiler)
    choice = tuning.fastest_path(model, forward, steps)
    tried = compiler and steps > 6000
    assert choice.path == ('compiled' if tried else 'fused')
    assert ('compiled' in choice.notes) != tried


@pytest.fixture
def broken_compiler(monkeypatch):
    def compile(function):
        raise RuntimeError('no such compiler\ndetails')

    monkeypatch.setattr(dispatch, '_compilation_failed', False)
    monkeypatch.setattr(dispatch, '_compile', compile)
    monkeypatch.setattr(tuning, 'compilation_pays', lambda *_: True)
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: True)


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 runs them eagerly')
def test_compilation_fails(model, broken_compiler):
    """One warning, and the results of the eager path."""
    x = torch.randn(2, 4, 6, 5)
    with force_path('fused'):
        torch.manual_seed(1)
        expected = copy.deepcopy(model)(x)
    with warnings.catch_warnings(record=True) as caught, force_path('compiled'):
        warnings.simplefilter('always')
        torch.manual_seed(1)
        y = model(x)
        y.sum().backward()
    assert [w.category for w in caught] == [dispatch.CompilationFailed]
    assert 'no such compiler' in str(caught[0].message)
    assert torch.equal(y, expected)


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 runs them eagerly')
def test_compilation_fails_in_the_measurement(model, broken_compiler):
    """One warning, and the choice is among the others."""
    with pytest.warns(dispatch.CompilationFailed, match='no such compiler') as caught:
        choice = tuning.fastest_path(model, forward, 10**6)
    assert len(caught) == 1
    assert 'no such compiler' in choice.notes['compiled']
    assert choice.path in ('reference', 'given', 'fused')


def test_out_of_memory(model, monkeypatch):
    """Of one path."""
    seconds = tuning._seconds

    def limited(calls, inputs, path):
        if path == 'reference':
            raise torch.cuda.OutOfMemoryError
        return seconds(calls, inputs, path)

    monkeypatch.setattr(tuning, '_seconds', limited)
    choice = tuning.fastest_path(model, forward)
    assert choice.notes['reference'] == 'out of memory'
    assert set(choice.seconds) == {'given', 'fused'}


def test_default_paths():
    """'given' for gradients on a GPU; what is set for training spares the rest."""
    learns, frozen = (
        SimpleNamespace(is_cuda=True, requires_grad=yes) for yes in (True, False)
    )
    assert dispatch.max_path(learns, frozen) == 'given'
    assert dispatch.max_path(frozen, frozen) == 'fused'
    with torch.no_grad():
        assert dispatch.max_path(learns) == 'fused'
    try:
        set_training_path('compiled')
        assert dispatch.max_path(learns) == 'compiled'
        assert dispatch.max_path(frozen) == 'fused'
        with force_path('reference'):
            assert dispatch.max_path(learns) == dispatch.max_path(frozen) == 'reference'
    finally:
        set_training_path(None)
    for set_ in (set_path, set_training_path):
        with pytest.raises(ValueError, match="path='fast'"):
            set_('fast')
