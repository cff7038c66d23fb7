"""Parts of a config that contradict each other."""

import pytest

from ra_mm.checks.channels import check_agreements


@pytest.fixture
def found(load):
    """Change one of the small configs; return (problems, warnings)."""

    def run(name, options=None, mode='train'):
        cfg, options = load(name), dict(options or {})
        # The small configs train for less than their schedules.
        cfg.param_scheduler = options.pop('param_scheduler', [])
        cfg.merge_from_dict(options)
        warnings = []
        return list(check_agreements(cfg, mode, warnings)), warnings

    return run


@pytest.mark.parametrize('name', ['detector', 'segmenter', 'classifier'])
@pytest.mark.parametrize('mode', ['train', 'test'])
def test_nothing_is_wrong(found, name, mode):
    assert found(name, mode=mode) == ([], [])


STEP = 'train_dataloader.dataset.pipeline.0.color_type'


@pytest.mark.parametrize(
    'name, options, advice',
    [
        ('detector', {STEP: 'grayscale'}, f'{STEP}=color'),
        ('segmenter', {'model.backbone.in_channels': 1}, f'{STEP}=grayscale'),
        ('segmenter', {'model.backbone.in_channels': 4}, 'model.backbone.in_channels=3'),
        ('segmenter', {'model.data_preprocessor.mean': [1, 1]}, 'mean=[123.675'),
    ],
)  # fmt: skip
def test_channels(found, name, options, advice):
    if 'mean=' in advice:
        options['model.data_preprocessor.std'] = [1, 1]
    if 'grayscale' in advice:
        options['model.data_preprocessor.mean'] = [1]
    problems, _ = found(name, options)
    assert advice in problems[0]


@pytest.mark.parametrize(
    'where, other',
    [
        ('model.decode_head', 'model.auxiliary_head'),
        ('model.auxiliary_head', 'model.decode_head'),
        ('val_evaluator', 'model.decode_head'),
    ],
)
def test_ignore_index(found, where, other):
    """A part that does not ignore what the others do is named alone."""
    (problem,), _ = found('segmenter', {f'{where}.ignore_index': 0})
    assert f'{where}.ignore_index=255' in problem and other not in problem


def test_padding_of_masks(found):
    (problem,), _ = found('segmenter', {'model.data_preprocessor.seg_pad_val': 0})
    assert 'model.data_preprocessor.seg_pad_val=255' in problem


def test_transform_that_fills_masks(found):
    rotate = dict(type='RandomRotate', prob=0.5, degree=20, seg_pad_val=0)
    key = 'train_dataloader.dataset.pipeline.2'
    (problem,), _ = found('segmenter', {key: rotate})
    assert f'{key}.seg_pad_val=255' in problem


def test_masks_that_are_resized_in_an_evaluation(found, load):
    train = load('segmenter').train_dataloader.dataset.pipeline
    (problem,), _ = found('segmenter', {'val_dataloader.dataset.pipeline': train})
    assert 'val_dataloader.dataset.pipeline' in problem and 'step 2' in problem


def test_evaluation_without_masks(found):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    (problem,), _ = found('segmenter', {'val_dataloader.dataset.pipeline': pipeline})
    assert 'IoUMetric' in problem


def test_palette_of_another_length(found):
    key = 'val_dataloader.dataset.metainfo.palette'
    (problem,), _ = found('segmenter', {key: [(0, 0, 0)]})
    assert f'{key}=[]' in problem


def test_batch_norm_of_one_value(found, monkeypatch):
    options = {'train_dataloader.batch_size': 1}
    (problem,), _ = found('segmenter', options)
    assert 'train_dataloader.batch_size=2' in problem
    monkeypatch.setenv('WORLD_SIZE', '2')  # SyncBN sees the other image too
    assert found('segmenter', options) == ([], [])


def scheduler(**kwargs):
    return {'param_scheduler': [dict(type='LinearLR', by_epoch=False, end=3), kwargs]}


@pytest.mark.parametrize(
    'node, advice',
    [
        (dict(type='CosineAnnealingLR', end=10), 'param_scheduler.1.end=14'),
        (dict(type='CosineAnnealingLR', T_max=10), 'param_scheduler.1.T_max=14'),
        (dict(type='PolyLR', end=100), 'param_scheduler.1.end=14'),
        (dict(type='MultiStepLR', milestones=[8, 20]), 'milestones=[8, 20]'),
    ],
)
def test_schedule_of_another_length(found, node, advice):
    options = {'train_cfg.max_epochs': 14, **scheduler(**node)}
    problems, (warning,) = found('detector', options)
    assert not problems and advice in warning


def test_schedule_that_is_no_list(found):
    node = dict(type='CosineAnnealingLR', T_max=10)
    options = {'train_cfg.max_epochs': 14, 'param_scheduler': node}
    _, (warning,) = found('detector', options)
    assert ' param_scheduler.end=14 param_scheduler.T_max=14' in warning


@pytest.mark.parametrize(
    'name, options, expected',
    [
        ('detector', {'train_cfg.max_epochs': 14}, '10 epochs'),
        ('segmenter', {'train_cfg.max_iters': 14}, '10 iterations'),
    ],
)
def test_schedule_has_a_unit(found, name, options, expected):
    node = dict(type='PolyLR', end=10, by_epoch=expected.endswith('epochs'))
    _, (warning,) = found(name, {**options, 'param_scheduler': [node]})
    assert expected in warning


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


def test_means_for_pixels_up_to_1(found):
    key = 'model.data_preprocessor'
    options = {f'{key}.mean': [0.5, 0.4, 0.4], f'{key}.std': [0.2, 0.2, 0.2]}
    problems, (warning,) = found('segmenter', options)
    assert not problems and f'{key}.mean=[127.5,102,102]' in warning
    assert f'{key}.std=[51,51,51]' in warning
