"""Annotation files that COCO's metric misreads: perfect predictions prove it."""

import copy
import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools import mask as coco_mask


@pytest.fixture(scope='module')
def truth(shapes):
    """The validation data at twice its size, so that objects are not small."""
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    for image in coco['images']:
        image.update(width=128, height=128)
    for annotation in coco['annotations']:
        (polygon,) = annotation['segmentation']
        annotation['bbox'] = [2 * x for x in annotation['bbox']]
        annotation['segmentation'] = [[2 * x for x in polygon]]
        annotation['area'] *= 4
    return coco


def evaluate(path, truth, metric):
    """Return the AP, of all objects and of medium ones, of perfect predictions."""
    evaluator = CocoMetric(ann_file=str(path), metric=metric)
    names = {c['id']: c['name'] for c in truth['categories']}
    evaluator.dataset_meta = dict(classes=list(names.values()))
    for image in truth['images']:
        found = [a for a in truth['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in found])
        rles = [coco_mask.frPyObjects(a['segmentation'], 128, 128) for a in found]
        masks = np.array([coco_mask.decode(coco_mask.merge(rle)) for rle in rles])
        instances = dict(
            bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            scores=torch.ones(len(found)),
            labels=torch.tensor([list(names).index(a['category_id']) for a in found]),
            masks=torch.tensor(masks > 0),
        )
        sample = dict(img_id=image['id'], ori_shape=(128, 128))
        evaluator.process({}, [sample | dict(pred_instances=instances)])
    values = evaluator.evaluate(len(truth['images']))
    return values[f'coco/{metric}_mAP'], values[f'coco/{metric}_mAP_m']


def is_misread(path, truth, metric):
    """Whether perfect predictions get another AP than 1, or none at all."""
    try:
        return evaluate(path, truth, metric) != (1, 1)
    except Exception:  # of many kinds, in pycocotools
        return True


@pytest.fixture
def with_validation(cfg, tmp_path, truth):
    """The config with changed annotations to validate with, and their file."""

    def put(change=lambda annotation: {}, metric='bbox', num=None):
        coco, path = copy.deepcopy(truth), tmp_path / 'val.json'
        coco['annotations'] = coco['annotations'][:num]
        for annotation in coco['annotations']:
            annotation.update(change(annotation))
        path.write_text(json.dumps(coco))
        cfg.val_evaluator.update(ann_file=str(path), metric=metric)
        cfg.val_dataloader.dataset.ann_file = str(path)
        cfg.model.roi_head.mask_head = dict()
        return cfg, path

    return put


def scaled(factor):
    return lambda a: {'segmentation': [[factor * x for x in a['segmentation'][0]]]}


def rle(**fields):
    return lambda a: {'segmentation': fields}


def as_box(a):
    x, y, w, h = a['bbox']
    return {'segmentation': [[x, y, x + w, y + h]]}


@pytest.mark.parametrize(
    'text, change',
    [
        ('not listed', lambda a: {'image_id': a['image_id'] + 1000}),
        (
            'below a pixel',
            lambda a: {'bbox': [a['id'], 50, -20, -20], 'segmentation': []},
        ),
        ('iscrowd', lambda a: {'ignore': 1}),
    ],
)
def test_objects_that_no_prediction_matches(check, with_validation, text, change):
    cfg, path = with_validation(lambda a: change(a) if a['id'] % 2 else {})
    found = [found for found in check(cfg) if str(path) in found]
    assert len(found) == 1 and text in found[0]


@pytest.mark.parametrize('kind', [int, str])  # of ids
@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_sound_files(check, with_validation, truth, metric, kind):
    cfg, path = with_validation(lambda a: {'id': kind(a['id'])}, metric)
    assert evaluate(path, truth, metric) == (1, 1)
    assert not [text for text in check(cfg) if str(path) in text]


@pytest.mark.parametrize(
    'key, change',
    [
        ('id', lambda a: {'id': a['id'] - 1}),
        ('area', lambda a: {'area': 0}),
        ('area', lambda a: {'area': a['area'] / 128**2}),
    ],
)
def test_numbers_that_lower_the_metric(check, with_validation, truth, key, change):
    cfg, path = with_validation(change)
    assert is_misread(path, truth, 'bbox')
    (text,) = [text for text in check(cfg) if str(path) in text]
    assert key in text


@pytest.mark.parametrize(
    'metric, key, change',
    [
        ('bbox', 'id', lambda a: {'id': f'a{a["id"]}'}),
        ('bbox', 'iscrowd', lambda a: {'iscrowd': 1}),
        ('bbox', 'iscrowd', lambda a: {'iscrowd': '0'}),
        ('bbox', 'iscrowd', lambda a: {'iscrowd': -1}),
        ('bbox', 'bbox', lambda a: {'bbox': [a['bbox']]}),
        ('bbox', 'iscrowd', lambda a: a.pop('iscrowd') or {}),
        ('bbox', 'area', lambda a: {'area': -1}),
        ('bbox', 'area', lambda a: {'area': 2e10}),
        ('bbox', 'area', lambda a: {'area': str(a['area'])}),
        ('bbox', 'image_id', lambda a: {'image_id': str(a['image_id'])}),
        ('bbox', 'category_id', lambda a: {'category_id': str(a['category_id'])}),
        ('segm', 'three points', as_box),
        ('segm', 'half', lambda a: {'segmentation': [a['segmentation'][0][:-1]]}),
        ('segm', 'three points', lambda a: {'segmentation': [[]]}),
        ('segm', 'no segmentation', lambda a: {'segmentation': None}),
        ('segm', '[[', lambda a: {'segmentation': a['segmentation'][0]}),
        ('segm', '[[', lambda a: {'segmentation': 'mask.png'}),
        ('segm', 'of pairs', lambda a: {'segmentation': [[[1, 1], [9, 1], [1, 9]]]}),
        ('segm', '0 and 1', scaled(1 / 128)),
        ('segm', 'RLE', rle(counts=[5, 3], size=[2, 4])),
        ('segm', 'RLE', rle(counts=[9], size=[128, 128])),
        ('segm', 'RLE', rle(counts=[128 * 128])),
    ],
)
def test_numbers_that_the_metric_cannot_use(
    refused, with_validation, truth, metric, key, change
):
    cfg, path = with_validation(change, metric)
    assert is_misread(path, truth, metric)
    text = refused(cfg)
    assert text.startswith(str(path)) and key in text and '\n' not in text


@pytest.mark.parametrize('value', [float('nan'), None, '5'])
def test_polygon_that_is_not_of_numbers(refused, with_validation, value):
    """COCOeval hangs on the first two."""
    change = lambda a: {'segmentation': [[value, *a['segmentation'][0][1:]]]}  # noqa: E731
    cfg, path = with_validation(change, 'segm')
    assert f'{path}: 25' in refused(cfg) and 'null' in refused(cfg)


def test_no_annotations(refused, with_validation):
    cfg, path = with_validation(num=0)
    assert f'{path} has no annotations' in refused(cfg)


def test_one_bad_polygon(refused, with_validation, truth):
    """One is enough to end an evaluation."""
    cfg, path = with_validation(lambda a: as_box(a) if a['id'] == 2 else {}, 'segm')
    assert is_misread(path, truth, 'segm')
    assert '(id 2)' in refused(cfg) and 'val_evaluator.metric=[bbox]' in refused(cfg)


def test_other_file_of_the_metric(
    cfg, check, refused, with_validation, truth, tmp_path
):
    """Its categories in another order swap the classes of all predictions."""
    coco, path = copy.deepcopy(truth), tmp_path / 'other.json'
    coco['categories'].reverse()
    path.write_text(json.dumps(coco))
    with_validation()
    cfg.val_evaluator.ann_file = str(path)
    assert is_misread(path, truth, 'bbox') and str(path) in refused(cfg)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file  # half as large
    assert any('with other boxes than' in text for text in check(cfg))


def test_objects_that_are_not_reached(check, with_validation):
    """All of the images that are not loaded, and those beyond a limit."""
    cfg, path = with_validation()
    cfg.val_dataloader.dataset.indices = -3
    cfg.merge_from_dict({'model.test_cfg.rcnn.max_per_img': 1})
    images, objects = (text for text in check(cfg) if str(path) in text)
    assert '5 of 8 images' in images and 'max_per_img=1' in objects
    cfg.val_dataloader.dataset.update(filter_cfg=dict(min_size=99), test_mode=False)
    cfg.val_dataloader.num_batch_per_epoch = 1
    assert any('dataset.test_mode=True' in text for text in check(cfg))
    assert any('num_batch_per_epoch=1' in text for text in check(cfg))


def test_numbers_of_proposals(refused, with_validation):
    cfg, _ = with_validation()
    cfg.val_evaluator.proposal_nums = (1, 10, 300)  # AP is -1
    assert 'proposal_nums=(1, 10, 300)' in refused(cfg)


def test_images_that_are_loaded_twice(check, refused, with_validation):
    cfg, _ = with_validation()
    twice = [cfg.val_dataloader.dataset] * 2
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=twice)
    assert 'the same id (1, 2' in refused(cfg)
    metrics = [cfg.val_evaluator] * 2
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics)
    check(cfg)
