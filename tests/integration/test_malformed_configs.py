"""Wrong values in configs: each ends in one message that names it."""

import copy
import math
import re

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

from ra_mm.cli import build_runner, report_user_errors
from ra_mm.preflight import check

nan, inf = math.nan, math.inf

# Values that no argument of such a kind may have
WHOLE = [None, '4', 2.5, nan, inf, 0, -1, [4], {}, True]
NUMBER = [None, '1', nan, inf, -1, [1], {}, True]
SWITCH = [None, 'no', 0, 1, [], {}]

RA, SE, CBAM = (
    dict(type=f'ra_mm.{name}', channels=8)
    for name in ('ReverseAttention', 'SE', 'CBAM')
)
RESNET = dict(type='ra_mm.RAResNet', depth=18, base_channels=4)
RESNEXT = dict(type='ra_mm.RAResNeXt', depth=50)
MOBILENET = dict(type='ra_mm.RAMobileNetV2')
TEMP = dict(type='ra_mm.TempAnnealingHook')
LOG = dict(type='ra_mm.GateLogHook')
HEAD = dict(type='ra_mm.DropoutClsHead', num_classes=4, in_channels=8, dropout_rate=0.2)

ARGUMENTS = [
    (RA, 'channels', WHOLE),
    (RA, 'eps', [*NUMBER, 0]),
    (RA, 'aggregation', [None, 'L2', 2, ['l2'], {}]),
    (RA, 'normalization', [None, 'mgrn', 0, ['bn'], True]),
    (RA, 'activation', [None, '1 +', 1, ['1+'], nan]),
    (SE, 'channels', WHOLE),
    (CBAM, 'channels', WHOLE),
    (RESNET, 'depth', [None, '18', 18.5, nan, 0, -18, 51, [18], {}, True]),
    (RESNET, 'in_channels', WHOLE),
    (RESNET, 'stem_channels', WHOLE),
    (RESNET, 'base_channels', WHOLE),
    (RESNET, 'num_stages', [*WHOLE, 5]),
    (RESNET, 'strides', [None, 2, '1222', (1, 2), (1, 2, 2, 0), {}]),
    (RESNET, 'dilations', [None, 2, '1111', (1, 1), (1, 1, 2, nan), {}]),
    (RESNET, 'out_indices', [None, 3, '3', (), (4,), (-1,), (1.5,), {}]),
    (RESNET, 'frozen_stages', [None, '1', -2, 5, 1.5, nan, [1], True]),
    (RESNET, 'style', [None, 'torch', 0, ['caffe']]),
    (RESNET, 'expansion', ['4', 2.5, 0, -1, [4]]),
    (RESNET, 'drop_path_rate', [*NUMBER, 1, 2.5]),
    (RESNET, 'norm_cfg', [None, 'BN', {}, 5, ['BN'], dict(typ='BN')]),
    (RESNET, 'conv_cfg', ['Conv2d', {}, 5, ['Conv2d']]),
    (RESNET, 'init_cfg', ['Pretrained', {}, 5, [5], dict(checkpoint='a.pth')]),
    *(
        (RESNET, name, SWITCH)
        for name in (
            'deep_stem',
            'avg_down',
            'norm_eval',
            'with_cp',
            'zero_init_residual',
        )
    ),
    *(
        (cls, 'attention', [None, 'ra_mm.SE', 5, {}, []])
        for cls in (RESNET, RESNEXT, MOBILENET)
    ),
    (RESNEXT, 'depth', [18, '50', None]),
    (RESNEXT, 'groups', WHOLE),
    (RESNEXT, 'width_per_group', WHOLE),
    (MOBILENET, 'widen_factor', [*NUMBER, 0]),
    (MOBILENET, 'out_indices', [None, 7, '7', (), (8,), (-1,)]),
    (MOBILENET, 'frozen_stages', [None, '1', -2, 8, 1.5]),
    (MOBILENET, 'act_cfg', ['ReLU6', {}, 5]),
    (MOBILENET, 'norm_eval', SWITCH),
    (TEMP, 'start', [*NUMBER, 0, 0.5]),
    (TEMP, 'end', [*NUMBER, 0, 31]),
    (TEMP, 'length', WHOLE),
    (TEMP, 'by_epoch', SWITCH),
    (LOG, 'interval', WHOLE),
    (HEAD, 'dropout_rate', [*NUMBER, 1.5]),
    (HEAD, 'num_classes', WHOLE),
    (HEAD, 'in_channels', WHOLE),
]
ARGUMENTS = [(cls, name, value) for cls, name, values in ARGUMENTS for value in values]

UNKNOWN = [
    (RA, 'agregation'),
    (RA, 'epsilon'),
    (SE, 'reduction'),
    (CBAM, 'kernel'),
    (RESNET, 'out_indeces'),
    (RESNET, 'frozen_stage'),
    (RESNET, 'dept'),
    (RESNEXT, 'group'),
    (MOBILENET, 'width'),
    (MOBILENET, 'depth'),
    (TEMP, 'lenght'),
    (TEMP, 'begin'),
    (LOG, 'intervall'),
    (HEAD, 'dropout'),
]

NAMES = [
    'ra_mm.RAResNt',
    'ra_mm.ResNet',
    'ramm.RAResNet',
    'RAResNet',
    'ra_mm.ReverseAtention',
    'ra_mm.TempAnnealing',
    'ra_mm.SELayer',
]


def build(cfg):
    registry = HOOKS if 'Hook' in cfg['type'] else MODELS
    with report_user_errors('tools/train.py'):
        registry.build(dict(cfg))


def named(case):
    cls, name, *value = case
    return f'{cls["type"]}-{name}-{value}'.removeprefix('ra_mm.')


@pytest.mark.parametrize('cls, name, value', ARGUMENTS, ids=map(named, ARGUMENTS))
def test_argument(message, cls, name, value):
    text = message(build, {**cls, name: value})
    assert f'{name}={value!r}' in text
    assert re.search('expected|Expected', text)
    assert '\n' not in text.strip() or name == 'attention'


@pytest.mark.parametrize('cls, name', UNKNOWN, ids=map(named, UNKNOWN))
def test_unknown_argument(message, cls, name):
    assert f"unexpected keyword argument '{name}'" in message(build, {**cls, name: 1})


@pytest.mark.parametrize('name', NAMES)
def test_unknown_class(message, name):
    assert f'{name} is not in the' in message(build, dict(type=name))


def test_what_is_refused_above_is_not_refused_always():
    for cls in (RA, SE, CBAM, RESNET, RESNEXT, MOBILENET, TEMP, LOG, HEAD):
        build(cls)
    build(
        dict(
            RESNET,
            num_stages=3,
            strides=[1, 2, 2],
            dilations=(1, 1, 2),
            out_indices=range(3),
            frozen_stages=3,
            drop_path_rate=0,
            norm_cfg=dict(type='GN', num_groups=2),
            init_cfg=[],
        )
    )


# Training

LOADER = {
    'dataset': [None, 'abc', 5, {}, [], dict(typ='CocoDataset')],
    'batch_size': WHOLE,
    'num_workers': [None, '2', 2.5, nan, -1, [], True],
    'persistent_workers': SWITCH,
    'sampler': ['DefaultSampler', 5, {}],
    'sampler.shuffle': ['no', 1, None],
    'batch_sampler': ['AspectRatioBatchSampler', {}],
    'drop_last': ['no', 1],
}
VALUES = {
    'model': ['FasterRCNN', 5, {}, []],
    'model.backbone': [None, 'ra_mm.RAResNet', 5, {}, []],
    'model.data_preprocessor.mean': ['abc', 5, [nan], [None]],
    'model.data_preprocessor.std': ['abc', [0, 0, 0], [-1], []],
    'train_cfg': ['12', 5, []],
    'train_cfg.max_epochs': WHOLE,
    'train_cfg.val_interval': WHOLE,
    'train_cfg.val_begin': [None, '1', 2.5, nan, -1, []],
    'train_cfg.by_epoch': SWITCH,
    'train_dataloader': ['abc', 5, []],
    'val_dataloader': ['abc', 5, []],
    **{f'train_dataloader.{path}': values for path, values in LOADER.items()},
    'val_dataloader.batch_size': [None, 0, '8'],
    'val_cfg': ['abc', [], 5],
    'val_evaluator': ['CocoMetric', {}, 5, [5]],
    'optim_wrapper': ['SGD', 5, []],
    'optim_wrapper.optimizer': [None, 'SGD', {}, [], dict(lr=0.1)],
    'optim_wrapper.optimizer.lr': [*NUMBER, 0],
    'optim_wrapper.optimizer.momentum': [*NUMBER, 1, 90],
    'optim_wrapper.optimizer.weight_decay': NUMBER,
    'optim_wrapper.optimizer.type': ['SGDD', 'sgd', 'AdmW'],
    'optim_wrapper.accumulative_counts': WHOLE,
    'optim_wrapper.clip_grad': [5, 'norm', [], dict(max_nrom=1)],
    'optim_wrapper.clip_grad.max_norm': [*NUMBER, 0],
    'param_scheduler': ['step', 5, {}, [5], [{}]],
    'param_scheduler.0.begin': [None, 'abc', -1, nan],
    'param_scheduler.0.end': [None, 'abc', 0, nan, 1.5],
    'param_scheduler.0.by_epoch': SWITCH,
    'param_scheduler.1.milestones': [None, 'abc', 8, [-1], [nan]],
    'param_scheduler.1.gamma': [*NUMBER, 0],
    'auto_scale_lr': [5, 'yes', []],
    'auto_scale_lr.base_batch_size': WHOLE,
    'auto_scale_lr.enable': SWITCH,
    'default_hooks': [5, 'abc', []],
    'default_hooks.checkpoint.interval': [None, 'abc', 0, 1.5],
    'custom_hooks': [5, 'abc', TEMP, [5], [{}], ['ra_mm.GateLogHook']],
    'randomness': [5, 'abc'],
    'randomness.seed': ['abc', -1, 0.5, 2**32],
    'env_cfg': [5, 'abc', None],
    'visualizer': [5, 'abc', []],
    'default_scope': [5, []],
    'log_level': ['DEBG', None, []],
    'load_from': [5, []],
    'resume': ['yes', 1, None],
    'work_dir': [5, []],
}
VALUES = [(path, value) for path, values in VALUES.items() for value in values]

# What is not there, and what only the runner can know
ABSENT = ...
OTHERS = [
    ('train_cfg', None, 'the config has no train_cfg'),
    ('train_dataloader', None, 'the config has no train_dataloader'),
    ('optim_wrapper', ABSENT, 'the config has no optim_wrapper'),
    ('train_dataloader', {}, 'train_dataloader has no dataset'),
    ('val_dataloader', {}, 'val_dataloader has no dataset'),
    ('val_evaluator', None, 'should be either all None or not None'),
    ('train_cfg.max_epochs', ABSENT, 'says not how long to train'),
    ('optim_wrapper.optimizer', ABSENT, 'optim_wrapper has no optimizer'),
    ('train_cfg.max_epoch', 3, "unexpected keyword argument 'max_epoch'"),
    ('train_cfg.type', 'EpochLoop', 'EpochLoop is not in the'),
    ('train_dataloader.dataset.type', 'CocoDatset', "no 'CocoDatset'"),
    ('train_dataloader.dataset.type', None, 'expected a dict with a'),
    ('train_dataloader.dataset.datset', 5, "argument 'datset'"),
    ('train_dataloader.sampler.type', 'Sampler', 'Sampler is not in the'),
    ('train_dataloader.sampler.shufle', True, "argument 'shufle'"),
    ('val_evaluator.type', 'CocoMetrics', 'CocoMetrics is not in the'),
    ('val_evaluator.metrc', 'bbox', "argument 'metrc'"),
    ('param_scheduler.1.type', 'StepLr', 'StepLr is not in the'),
    ('param_scheduler.1.gama', 0.1, "argument 'gama'"),
    ('optim_wrapper.type', 'Optim', 'Optim is not in the'),
    ('optim_wrapper.optimizer.lrr', 0.1, "argument 'lrr'"),
    ('default_scope', 'mmdt', "no 'CocoDataset'"),
    ('default_hooks.logger', 5, 'hook should be an instance of Hook or dict'),
    ('default_hooks.logger.intervall', 5, "argument 'intervall'"),
    ('custom_hooks', [dict(LOG, intervall=5)], "argument 'intervall'"),
    ('custom_hooks', [dict(type='TempAnnealingHook')], 'is not in the'),
    ('randomness', dict(sed=1), "argument 'sed'"),
    ('visualizer.type', 'Visualiser', 'Visualiser is not in the'),
    ('model.type', 'FasterRCNN2', 'FasterRCNN2 is not in the'),
    ('model.type', 'ra_mm.RAResNet', 'missing 1 required positional'),
    ('auto_scale_lr', dict(enable=True), 'base_batch_size'),
    ('work_dir', '/proc/nowhere', '/proc/nowhere'),
]


@pytest.fixture(scope='module')
def whole_config(configs):
    cfg = Config.fromfile(configs / 'detector.py')
    cfg.merge_from_dict(dict(launcher='none', work_dir='unused', log_level='ERROR'))
    cfg.randomness = dict(seed=0)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=2),
        dict(type='MultiStepLR', milestones=[1], gamma=0.1, end=2),
    ]
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.1),
        clip_grad=dict(max_norm=1),
    )
    return cfg


def put(cfg, path, value):
    """A copy of the config with this value in its place."""
    cfg = copy.deepcopy(cfg)
    *names, last = path.split('.')
    node = cfg
    for name in names:
        node = node[int(name) if name.isdigit() else name]
    if value is ABSENT:
        node.pop(last)
    else:
        node[last] = value
    return cfg


@pytest.mark.parametrize('path, value', VALUES, ids=[f'{p}-{v}' for p, v in VALUES])
def test_value(message, whole_config, path, value):

    def look():
        with report_user_errors('tools/train.py'):
            check(put(whole_config, path, value), 'train')

    text = message(look)
    assert f'{path}={value!r}: ' in text
    assert re.search('expected|is .* meant', text)


@pytest.mark.parametrize(
    'path, value, expected', OTHERS, ids=[f'{p}-{v}' for p, v, _ in OTHERS]
)
def test_part(message, whole_config, tmp_path, path, value, expected):

    def train():
        cfg = put(whole_config, 'work_dir', str(tmp_path))
        cfg.experiment_name = tmp_path.name
        cfg = put(cfg, path, value)
        with report_user_errors('tools/train.py'):
            check(cfg, 'train')
            build_runner(cfg).train()

    assert expected in message(train)


def test_nothing_is_wrong_with_the_config_above(whole_config, capsys):
    check(whole_config, 'train')
    check(put(whole_config, 'train_cfg', None), 'test')  # not its business


# The tools' own

LINES = [
    ('train', ['train_cfg.max_epochs=0'], 'train_cfg.max_epochs=0: expected'),
    (
        'train',
        ['train_dataloader.batch_size=a', 'resume=1'],
        '2 things are missing or wrong',
    ),
    ('train', ['model.backbone.stem_channels=0'], 'stem_channels=0: expected'),
    ('train', ['custom_hooks.0.length=0.5'], 'length=0.5: expected'),
    ('train', ['optim_wrapper.optimizer.lr=a'], "lr='a': expected"),
    ('get_flops', ['model.backbone.base_channels=-4'], 'base_channels=-4: '),
    ('get_flops', ['model.backbone.attention.type=ra_mm.SEE'], 'SEE is not'),
    (
        'get_flops',
        [
            'model.backbone.attention.type=ra_mm.ReverseAttention',
            'model.backbone.attention.eps=0',
        ],
        'eps=0: expected',
    ),
    ('get_flops', ['model.neck=5'], 'cfg should be a dict'),
]


@pytest.mark.parametrize('name, options, expected', LINES)
def test_tool(message, tool, detector, name, options, expected):
    assert expected in message(tool(name), detector, '--cfg-options', *options)


CASES = [ARGUMENTS, UNKNOWN, NAMES, VALUES, OTHERS, LINES]
