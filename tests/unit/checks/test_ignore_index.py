"""The ignored label of segmentation, and the masks of an evaluation."""

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


def test_no_classes(found):
    """The metric needs their names, after the first part of the training."""
    none = dict(_delete_=True, palette=[])
    errors, _ = found('segmenter', {'val_dataloader.dataset.metainfo': none})
    assert any('val_dataloader.dataset.metainfo has no' in text for text in errors)
