"""Classes of the data, against those of the model."""

import ast

import pytest


def test_class_folders(check, load, refused, shapes, tmp_path):
    cfg = load('classifier')
    check(cfg, 'train')
    cfg.model.head.num_classes = 1000
    assert 'model.head.num_classes=4' in refused(cfg)
    # One class is absent from the validation data: labels would shift.
    for name in ('circle', 'star', 'triangle'):
        (tmp_path / name).symlink_to(shapes / 'classes/val' / name)
    cfg.val_dataloader.dataset.data_prefix = str(tmp_path)
    assert 'val_dataloader.dataset has (circle, star, triangle)' in refused(cfg)


@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_single_class_of_a_softmax(found, use_sigmoid):
    """Its loss is always 0."""
    loss = dict(type='CrossEntropyLoss', use_sigmoid=use_sigmoid)
    options = {'num_classes': 1, 'loss_decode': [loss]}
    options = {f'model.decode_head.{key}': value for key, value in options.items()}
    errors, _ = found('segmenter', options)
    assert any('always 0' in text for text in errors) != use_sigmoid


@pytest.mark.parametrize(
    'name, head', [('detector', 'roi_head.bbox_head'), ('segmenter', 'decode_head')]
)
def test_number_of_classes(load, refused, name, head):
    cfg = load(name)
    cfg.merge_from_dict({f'model.{head}.num_classes': 80})
    expected = 4 if name == 'detector' else 5
    assert f'--cfg-options model.{head}.num_classes={expected}' in refused(cfg)


def test_cascade_of_heads(cfg, refused):
    head = cfg.model.roi_head.bbox_head
    cfg.model.roi_head.bbox_head = [head, dict(head, num_classes=80)]
    message = refused(cfg)
    assert 'model.roi_head.bbox_head.1.num_classes=4' in message
    assert 'bbox_head.0' not in message


def test_classes_in_a_string(cfg, refused):
    cfg.train_dataloader.dataset.metainfo = dict(classes='star')
    assert 'train_dataloader.dataset.metainfo.classes' in refused(cfg)


def test_things_of_a_panoptic_dataset(load, installed, refused):
    """53 of its 133 classes have no boxes."""
    config = installed('mmdet', 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py')
    message = refused(load(config))
    assert 'data/coco/' in message
    assert 'num_classes' not in message


def test_types_that_are_classes(check, cfg, refused):
    """A pure Python config has no default scope and classes for types."""
    from mmdet.datasets import CocoDataset

    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.type = CocoDataset
    cfg.default_scope = None
    check(cfg, 'train')
    cfg.model.roi_head.bbox_head.num_classes = 80
    assert 'num_classes=4' in refused(cfg)


@pytest.mark.parametrize('toolbox, value', [('detector', 'None'), ('segmenter', '[]')])
def test_palette_that_is_too_short(found, toolbox, value):
    key = 'val_dataloader.dataset.metainfo.palette'
    (problem,), _ = found(toolbox, {key: [(0, 0, 0)]})
    assert f'{key}={value}' in problem
    assert found(toolbox, {key: ast.literal_eval(value)}) == ([], [])


def test_palette_of_a_detector_may_be_longer(found):
    key = 'val_dataloader.dataset.metainfo.palette'
    assert found('detector', {key: [(0, 0, 0)] * 9}) == ([], [])
