"""Keys of a config that are no arguments of what they configure."""

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ra_mm.checks.arguments import check_arguments


@pytest.fixture
def found(load):
    """Change one of the small configs, and return the problems."""

    def run(name, options=None, mode='train'):
        cfg = load(name)
        cfg.merge_from_dict(options or {})
        return list(check_arguments(cfg, mode))

    return run


@pytest.mark.parametrize('name', ['detector', 'segmenter', 'classifier'])
@pytest.mark.parametrize('mode', ['train', 'test'])
def test_nothing_is_wrong(found, name, mode):
    assert found(name, mode=mode) == []


@pytest.mark.parametrize(
    'option, similar',
    [
        ('train_cfg.max_epoch', 'max_epochs'),
        ('val_cfg.fp_16', 'fp16'),
        ('train_dataloader.batchsize', 'batch_size'),
        ('train_dataloader.sampler.shufle', 'shuffle'),
        ('train_dataloader.dataset.pipeline.0.color_typ', 'color_type'),
        ('val_evaluator.metrc', 'metric'),
        ('optim_wrapper.clip_grads', 'clip_grad'),
        ('optim_wrapper.optimizer.weight_decays', 'weight_decay'),
        ('param_scheduler.1.begn', 'begin'),
        ('default_hooks.logger.intervals', 'interval'),
        ('custom_hooks.0.lenght', 'length'),
    ],
)
def test_misspelt(found, option, similar):
    key, _, name = option.rpartition('.')
    (problem,) = found('detector', {option: 1})
    assert problem.startswith(key) and f'{name!r}' in problem
    assert f'{similar!r}' in problem


def test_unlike_any_argument(found):
    (problem,) = found('detector', {'val_cfg.x': 1})
    assert "'x'" in problem and 'fp16' in problem


def test_what_a_run_does_not_read(found):
    options = {'test_evaluator.metrc': 1, 'optim_wrapper.clip_grads': 1}
    (problem,) = found('detector', options)
    assert 'clip_grads' in problem
    (problem,) = found('detector', options, mode='test')
    assert 'metrc' in problem


@HOOKS.register_module()
class TakesAnything(Hook):
    def __init__(self, interval=1, **kwargs):
        super().__init__()


@pytest.mark.parametrize(
    'options',
    [
        {'custom_hooks': [dict(type='TakesAnything', intervals=1)]},
        {'custom_hooks': [dict(type=TakesAnything, priority=1)]},
        {'custom_hooks': [dict(type='NoSuchHook', x=1)]},  # building it says so
        {'optim_wrapper.constructor': 'Own', 'optim_wrapper.paramwise_cfg': {}},
        {'optim_wrapper': dict(type='AmpOptimWrapper', loss_scale=1, clip_grad=None)},
        {'param_scheduler': [dict(type='PolyLR', end=1, convert_to_iter_based=True)]},
        {'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=1)},
        {'train_cfg': dict(_delete_=True, max_epochs=1)},
        {'train_dataloader.num_batch_per_epoch': 1},
    ],
)
def test_no_mistake(found, options):
    assert found('detector', options) == []
