"""What SafeRunner saves, loads and reports."""

import os
from contextlib import nullcontext

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import RUNNERS

from ra_mm.engine.checkpoint_hook import SafeCheckpointHook
from ra_mm.engine.runner import SafeRunner
from ra_mm.errors import UserError


class Info(Hook):
    def __init__(self, value):
        self.value = value

    def before_train(self, runner):
        runner.message_hub.update_info('value', self.value)


def test_saved_objects_that_cannot_be_read(run, names, tmp_path):
    """A run stops at its first checkpoint, not when it is resumed."""
    with pytest.raises(UserError, match='range'):
        run(tmp_path, hooks=[Info(range(3))])
    assert not names(tmp_path)


def test_full_disk(run, names, tmp_path, monkeypatch):
    """Nothing remains of the new checkpoint, and the previous one does."""

    def full(*_):
        raise OSError(28, 'No space left on device')

    run(tmp_path, epochs=1, save_best=None)
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(UserError, match='epoch_2.pth.*No space'):
        run(tmp_path, epochs=2, save_best=None, resume=True)
    assert names(tmp_path) == {'epoch_1.pth'}


@pytest.mark.parametrize(
    'lr, epochs, changed',
    [
        (0.1, 2, None),
        (0.1, 4, 'end=2, not 4'),
        (0.2, 2, 'base_values=[0.1], not [0.2]'),
    ],
)
def test_another_schedule(run, tmp_path, lr, epochs, changed):
    """Than that of the checkpoint, by which a resumed run goes on."""

    def schedule(end):
        return [dict(type='MultiStepLR', milestones=[3], end=end)]

    run(tmp_path, epochs=1, param_scheduler=schedule(2))
    options = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)), resume=True)
    run(tmp_path, epochs=epochs, param_scheduler=schedule(epochs), **options)
    text = max(tmp_path.glob('*/*.log')).read_text()
    assert (changed or '') in text and ('its schedule' in text) == bool(changed)


def test_settings_of_no_parameter(run, tmp_path):
    keys = {'weight': dict(lr_mult=1.0), 'gate.gama': dict(decay_mult=0.0)}
    optimizer = dict(type='SGD', lr=0.1, weight_decay=0.1)
    paramwise = dict(paramwise_cfg=dict(custom_keys=keys, norm_decay_mul=0.0))
    run(tmp_path, optim_wrapper=dict(optimizer=optimizer, **paramwise))
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert '(gate.gama, norm_decay_mul) of paramwise_cfg' in log


def test_config_needs_no_import():
    """Under the root scope, as in a toolbox's own tool."""
    assert RUNNERS.get('ra_mm.SafeRunner') is SafeRunner


class Custom(CheckpointHook):
    pass


@pytest.mark.parametrize(
    'kind, expected',
    [
        ('CheckpointHook', SafeCheckpointHook),
        (CheckpointHook, SafeCheckpointHook),
        ('ra_mm.SafeCheckpointHook', SafeCheckpointHook),
        (Custom, Custom),
    ],
)
def test_checkpoint_hook(run, tmp_path, kind, expected):
    runner = run(tmp_path, epochs=1, save_best=None, checkpoint=dict(type=kind))
    (hook,) = (h for h in runner.hooks if isinstance(h, CheckpointHook))
    assert type(hook) is expected


@pytest.mark.parametrize('options', [dict(), dict(resume=True)])
@pytest.mark.parametrize('rank', [0, 1])
def test_weights_that_do_not_fit(run, tmp_path, options, rank, monkeypatch):
    """Every process stops, where mmengine only warns in the first one."""
    monkeypatch.setattr('mmengine.runner.checkpoint.get_dist_info', lambda: (rank, 2))
    path = tmp_path / 'bad.pth'
    torch.save(dict(state_dict={'backbone.x': torch.ones(1)}), path)
    with pytest.raises(UserError, match='backbone.x'):
        run(tmp_path / 'work', load_from=str(path), **options)


def test_new_heads_to_train_but_not_to_test(run, tmp_path):
    path = tmp_path / 'other.pth'
    weights = {'weight': torch.ones(1), 'head.x': torch.ones(1)}
    torch.save(dict(state_dict=weights), path)
    runner = run(tmp_path / 'work', epochs=1, load_from=str(path))
    with pytest.raises(UserError, match='head.x'):
        runner.load_checkpoint(str(path))


@pytest.mark.parametrize('trained, fits', [('ab', 1), ('ba', 0), ('xy', 1), ('', 1)])
def test_classes_in_another_order(run, tmp_path, trained, fits):
    """They would be scored as one another; new names may be those of a translation."""
    path = tmp_path / 'trained.pth'
    meta = dict(dataset_meta=dict(classes=(*trained,)))
    torch.save(dict(state_dict={'weight': torch.ones(1)}, meta=meta), path)
    runner = run(tmp_path / 'work', epochs=1, load_from=str(path))
    runner.visualizer.dataset_meta = dict(classes=['a', 'b'])
    with nullcontext() if fits else pytest.raises(UserError, match='another order'):
        runner.load_checkpoint(str(path))


def test_finds_what_to_resume(run, tmp_path):
    """The run was killed before it noted its last checkpoint."""
    run(tmp_path, epochs=2)
    (tmp_path / 'last_checkpoint').unlink()
    runner = SafeRunner.from_cfg(
        Config(dict(model=torch.nn.Identity(), work_dir=str(tmp_path), resume=True))
    )
    assert runner.cfg.load_from == str(tmp_path / 'epoch_2.pth')


@pytest.mark.parametrize(
    'setting',
    [
        dict(loop=dict(max_epoch=3)),
        dict(optim_wrapper=dict(optimizer=dict(type='SDG', lr=0.1))),
        dict(param_scheduler=dict(type='StepLR')),
    ],
)
def test_settings_that_cannot_be_built(run, tmp_path, setting):
    with pytest.raises(UserError) as e:
        run(tmp_path, **setting)
    assert not isinstance(e.value.__cause__, UserError)


class Faulty(Hook):
    def before_train_iter(self, *_, **__):
        raise ValueError('a bug')


def test_bug_in_a_hook_is_not_translated(run, tmp_path):
    with pytest.raises(ValueError, match='a bug'):
        run(tmp_path, hooks=[Faulty()])
