"""The ignored label of segmentation."""

import pytest


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


def test_classes_that_are_numbered_differently(found):
    key = 'val_dataloader.dataset.reduce_zero_label'
    _, (warning,) = found('segmenter', {key: False})
    assert key.rpartition('.')[0] in warning


def test_padding_of_masks(found):
    (problem,), _ = found('segmenter', {'model.data_preprocessor.seg_pad_val': 0})
    assert 'model.data_preprocessor.seg_pad_val=255' in problem


def test_transform_that_fills_masks(found):
    rotate = dict(type='RandomRotate', prob=0.5, degree=20, seg_pad_val=0)
    key = 'train_dataloader.dataset.pipeline.2'
    (problem,), _ = found('segmenter', {key: rotate})
    assert f'{key}.seg_pad_val=255' in problem
