"""The choice of the tails' path on the first batch of a training."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from ra_mm.hooks import FastestPathHook, fastest_path
from ra_mm.layers import ReverseAttention
from ra_mm.ops import PATHS, force_path, get_path
from ra_mm.ops.paths import max_path
from ra_mm.ops.tuning import Choice


class Block(BaseModel):
    """An RA block that uses every random number generator."""

    def __init__(self, ra=True):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.attention = ReverseAttention(3) if ra else None
        self.act = nn.ReLU(inplace=True)
        for p in self.parameters():
            p.data.normal_(generator=g)

    def forward(self, inputs, mode):
        x = inputs + torch.rand(1) + float(np.random.rand()) + random.random()
        if self.attention is None:
            y = self.norm(self.conv(x))
        else:
            y = self.attention.tail(self.conv(x), self.norm, x, self.act)
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Record(Hook):
    """The losses, and the paths for training and for inference."""

    def __init__(self):
        self.losses, self.paths, self.val_paths = [], [], []

    def before_train(self, runner):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'])
        self.paths.append(max_path(torch.ones(1, requires_grad=True)))
        with torch.no_grad():
            self.val_paths.append(max_path(torch.ones(1)))


@pytest.fixture
def trained(run):
    """Train a block for some epochs, and return the runner and its Record."""

    def call(model=None, **kwargs):
        record, runner = run(
            FastestPathHook(), record=Record(), model=model or Block(), **kwargs
        )
        assert max_path(torch.ones(1, requires_grad=True)) == (get_path() or 'fused')
        return runner, record

    return call


@pytest.fixture
def choices(monkeypatch):
    """The numbers of tails and of steps with which a choice was asked for."""
    asked = []

    def compare_paths(calls, steps):
        asked.append((len(calls), steps))
        return Choice('fused_sum', dict(fused=2.0, fused_sum=1.0), {})

    monkeypatch.setattr(fastest_path, 'compare_paths', compare_paths)
    return asked


def saved_path(runner):
    return runner.message_hub.get_info(fastest_path.TRAINING_PATH)


def test_losses_are_those_of_the_forced_path(trained):
    """Bit for bit: weights, statistics and random numbers stay as they were."""
    runner, measured = trained()
    path = saved_path(runner)
    assert path in PATHS and set(measured.paths) == {path}
    with force_path(path):
        other, forced = trained()
    assert saved_path(other) is None
    assert measured.losses == forced.losses
    for a, b in zip(
        runner.model.state_dict().values(), other.model.state_dict().values()
    ):
        assert torch.equal(a, b)


def test_for_training_only(trained, choices):
    _, record = trained()
    assert choices == [(1, 12)]  # 4 epochs of 3 iterations
    assert set(record.paths) == {'fused_sum'} and set(record.val_paths) == {'fused'}


def test_resumed_run_takes_the_same_path(trained, choices, monkeypatch):
    trained(epochs=1)
    monkeypatch.setattr(fastest_path, 'compare_paths', None)
    runner, record = trained(epochs=2, resume=True)
    assert saved_path(runner) == 'fused_sum' and set(record.paths) == {'fused_sum'}


def test_resumed_run_measures_an_unknown_path_anew(trained, choices, tmp_path):
    """The name of a path may be that of an earlier version."""
    trained(epochs=1)
    path = tmp_path / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['message_hub']['runtime_info'][fastest_path.TRAINING_PATH] = 'given'
    torch.save(checkpoint, path)
    runner, record = trained(epochs=2, resume=True)
    assert len(choices) == 2 and record.paths == ['fused_sum'] * 3


def test_first_process_decides_for_all(trained, choices, monkeypatch):
    monkeypatch.setattr(fastest_path, 'is_main_process', lambda: False)
    monkeypatch.setattr(
        fastest_path,
        'broadcast_object_list',
        lambda found: found.__setitem__(0, 'fused_sum'),
    )
    _, record = trained(epochs=1)
    assert not choices and set(record.paths) == {'fused_sum'}


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_nothing_is_measured(trained, choices, deterministic):
    trained(epochs=1)
    assert not choices


def test_nothing_to_measure(trained, choices):
    trained(model=Block(ra=False), epochs=1)
    compiled = Block()
    compiled.act._compiled_call_impl = compiled.act._call_impl
    trained(model=compiled, epochs=1)
    assert not choices


def test_a_failure_does_not_stop_the_training(trained, monkeypatch):
    def fail(*_):
        raise RuntimeError('no clock')

    monkeypatch.setattr(fastest_path, 'compare_paths', fail)
    warnings = []
    monkeypatch.setattr(
        'mmengine.logging.MMLogger.warning',
        lambda self, text, *_: warnings.append(text),
    )
    runner, record = trained(epochs=1)
    assert set(record.paths) == {'fused'} and saved_path(runner) is None
    assert any('no clock' in text for text in warnings)
