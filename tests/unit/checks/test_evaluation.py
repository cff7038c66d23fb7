"""What an evaluation loads to compare predictions with."""

import pytest


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


@pytest.mark.parametrize('metric', ['VOCMetric', 'SemSegMetric'])
def test_boxes_that_are_resized_in_an_evaluation(found, load, metric):
    train = load('detector').train_dataloader.dataset.pipeline
    train = [step for step in train if not step.type.startswith('Random')]
    options = {'val_dataloader.dataset.pipeline': train}
    assert found('detector', options) == ([], [])  # CocoMetric reads the file
    options['val_evaluator'] = dict(_delete_=True, type=metric)
    (problem,), _ = found('detector', options)
    assert 'val_dataloader.dataset.pipeline' in problem and 'step 1' in problem


def test_crops_that_are_mostly_padded(found, load):
    pipeline = load('segmenter').train_dataloader.dataset.pipeline
    pipeline.insert(2, dict(type='RandomCrop', crop_size=(32, 32)))
    options = {'train_dataloader.dataset.pipeline': pipeline}
    for size, warned in (((128, 128), True), ((32, 32), False)):
        options['model.data_preprocessor.size'] = size
        _, warnings = found('segmenter', options)
        assert any('data_preprocessor.size=(32,32)' in w for w in warnings) == warned


@pytest.mark.parametrize('prob', [0.5, 0.0])
def test_randomness_in_an_evaluation(found, load, prob):
    pipeline = load('classifier').val_dataloader.dataset.pipeline
    pipeline.insert(1, dict(type='RandomFlip', prob=prob))
    options = {'val_dataloader.dataset.pipeline': pipeline}
    errors, warnings = found('classifier', options)
    assert not errors and len(warnings) == (prob > 0)
