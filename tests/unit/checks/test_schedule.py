"""Schedules, against the length of the training."""

import pytest


def scheduler(**kwargs):
    return {'param_scheduler': [dict(type='LinearLR', by_epoch=False, end=3), kwargs]}


@pytest.mark.parametrize(
    'node, advice',
    [
        (dict(type='CosineAnnealingLR', end=10), 'param_scheduler.1.end=14'),
        (dict(type='CosineAnnealingLR', T_max=10), 'param_scheduler.1.T_max=14'),
        (dict(type='PolyLR', end=100), 'param_scheduler.1.end=14'),
        (dict(type='MultiStepLR', milestones=[8, 20]), 'milestones=[8, 20]'),
        (dict(type='CosineAnnealingLR', begin=15, T_max=9), 'begin is not before'),
        (dict(type='LinearLR', end=500), 'param_scheduler.1.by_epoch=False'),
    ],
)
def test_schedule_of_another_length(found, node, advice):
    options = {'train_cfg.max_epochs': 14, **scheduler(**node)}
    problems, (warning,) = found('detector', options)
    assert not problems and advice in warning


@pytest.mark.parametrize('by_epoch', [False, True])
def test_checkpoints_by_epoch_without_epochs(found, by_epoch):
    key = 'default_hooks.checkpoint.by_epoch'
    assert (f'{key}=False' in str(found('segmenter', {key: by_epoch})[1])) == by_epoch


def test_schedule_that_is_no_list(found):
    node = dict(type='CosineAnnealingLR', T_max=10)
    options = {'train_cfg.max_epochs': 14, 'param_scheduler': node}
    _, (warning,) = found('detector', options)
    assert ' param_scheduler.end=14 param_scheduler.T_max=14' in warning


@pytest.mark.parametrize('name, unit', [('detector', 'epoch'), ('segmenter', 'iter')])
def test_schedule_has_a_unit(found, name, unit):
    node = dict(type='PolyLR', end=10, by_epoch=unit == 'epoch')
    options = {f'train_cfg.max_{unit}s': 14, 'param_scheduler': [node]}
    _, (warning,) = found(name, options)
    assert f'10 {unit}' in warning


@pytest.mark.parametrize(
    'node',
    [
        dict(type='CosineAnnealingLR', begin=1, end=14),
        dict(type='CosineAnnealingLR', T_max=13, begin=1, end=14),
        dict(type='MultiStepLR', milestones=[8, 11], end=12),
        dict(type='CosineAnnealingLR', by_epoch=False, end=1000),
    ],
)
def test_schedule_that_fits(found, node):
    options = {'train_cfg.max_epochs': 14, **scheduler(**node)}
    assert found('detector', options) == ([], [])


def test_schedule_with_a_constant_end(found):
    """As in YOLOX."""
    options = {'train_cfg.max_epochs': 14, **scheduler(type='CosineAnnealingLR', end=9)}
    options['param_scheduler'] += [dict(type='ConstantLR', factor=1, begin=9, end=14)]
    assert found('detector', options) == ([], [])
