"""Config values that would be wrong silently, or only after hours."""

import math

import pytest

VALUES = [
    ('model', 'FasterRCNN'),
    ('load_from', 5),
    ('model.data_preprocessor.mean', [math.nan]),
    ('default_hooks.checkpoint.interval', 0),
    ('resume', 'no'),
    ('train_cfg.by_epoch', 'no'),
    ('train_cfg.max_epochs', 0),
    ('train_cfg.val_begin', -1),
    ('train_cfg.val_interval', 0),
    ('train_cfg.val_interval', 2.5),
    ('train_dataloader.batch_size', '4'),
    ('train_dataloader.persistent_workers', 'no'),
    ('train_dataloader.sampler.shuffle', 'no'),
    ('optim_wrapper.accumulative_counts', 0),
    ('optim_wrapper.clip_grad.max_norm', 0),
    ('optim_wrapper.optimizer.lr', 0),
    ('param_scheduler.1.gamma', 0),
    ('param_scheduler.1.milestones', '8'),
    ('auto_scale_lr.base_batch_size', 0),
    ('auto_scale_lr.enable', 'no'),
]


@pytest.fixture
def cfg(cfg):
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=2),
        dict(type='MultiStepLR', milestones=[1], gamma=0.1, end=2),
    ]
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    cfg.optim_wrapper = dict(optimizer=optimizer, clip_grad=dict(max_norm=1))
    return cfg


def put(cfg, path, value):
    *names, last = path.split('.')
    node = cfg
    for name in names:
        node = node[int(name) if name.isdigit() else name]
    node[last] = value


@pytest.mark.parametrize('path, value', VALUES, ids=[f'{p}-{v}' for p, v in VALUES])
def test_value(cfg, refused, path, value):
    put(cfg, path, value)
    message = refused(cfg)
    assert f'{path}=' in message and 'expected' in message


def test_values_above_are_in_a_valid_config(check, cfg):
    check(cfg, 'train')
    cfg.train_cfg.val_interval = 1000.0  # as in some configs of the toolboxes
    check(cfg, 'train')


def test_scheduler_that_is_not_in_a_list(cfg, refused):
    cfg.param_scheduler = dict(type='StepLR', step_size=1, gamma=0)
    assert 'param_scheduler.gamma=0' in refused(cfg)


@pytest.mark.parametrize(
    'mode, names',
    [
        ('train', ['model', 'train_cfg', 'train_dataloader', 'optim_wrapper']),
        ('test', ['test_cfg', 'test_dataloader', 'test_evaluator']),
    ],
)
def test_missing_parts(cfg, refused, mode, names):
    cfg.pop(names[0])
    cfg.update(dict.fromkeys(names[1:]))
    text = refused(cfg, mode)
    assert all(f'has no {name}' in text for name in names)


def test_other_mode_is_not_checked(check, cfg):
    cfg.test_dataloader.batch_size = 0
    check(cfg, 'train')
    cfg.test_dataloader.batch_size = 1
    cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.train_dataloader.batch_size = 0
    check(cfg, 'test')


def test_run_without_a_validation(check, cfg, refused):
    cfg.train_cfg = dict(by_epoch=True, max_epochs=12, val_begin=13)
    assert 'train_cfg.val_begin=12' in refused(cfg)
    cfg.train_cfg = dict(by_epoch=False, max_iters=500, val_begin=501)
    assert 'train_cfg.val_begin=500' in refused(cfg)
    cfg.train_cfg.val_begin = 500
    check(cfg, 'train')
