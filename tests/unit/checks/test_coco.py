"""Annotation files: what is refused, what mmdet leaves out, and reading them."""

import json
import math

import pytest
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope

from ra_mm.checks.coco import CocoFile

nan, inf = math.nan, math.inf
ABSENT = object()
FIELDS = [
    ('images', 'file_name', ABSENT),
    ('images', 'height', nan),
    ('categories', 'name', None),
    ('annotations', 'image_id', []),
    ('annotations', 'category_id', ABSENT),
    ('annotations', 'area', ABSENT),
    ('annotations', 'area', inf),
    ('annotations', 'bbox', ABSENT),
    ('annotations', 'bbox', [1, 2, nan, 4]),
    ('annotations', 'bbox', [1, 2, 3, None]),
    ('annotations', 'bbox', ['1', '2', '3', '4']),
    ('images', 'width', '64'),
]


@pytest.mark.parametrize('part, key, value', FIELDS)
def test_field(with_annotations, coco, refused, part, key, value):
    entry = coco[part][-1]
    if value is ABSENT:
        del entry[key]
    else:
        entry[key] = value
    entry['mark'] = 'here'
    coco[part][-1] = dict(sorted(entry.items(), key=lambda item: item[0] != 'mark'))
    message = refused(with_annotations(coco))
    assert 'spoilt.json' in message and f'no valid {key}' in message
    assert "'mark': 'here'" in message  # it shows the entry


@pytest.mark.parametrize('part', ['images', 'categories', 'annotations'])
def test_id_that_is_not_unique(with_annotations, coco, refused, part):
    coco[part].append(coco[part][0])
    assert f'have the id {coco[part][0]["id"]}' in refused(with_annotations(coco))


@pytest.mark.parametrize(
    'content',
    [
        *(None, [1], {}, {'images': {}}, {'images': [1]}),
        *(b'', b'{', b'[' * 10**5, b'\xff\xfe\x00a', b'{"images": [1,]}'),
    ],
)
def test_not_a_coco_file(with_annotations, refused, content):
    assert 'spoilt.json is not a COCO' in refused(with_annotations(content))


@pytest.mark.parametrize(
    'part, id', [('images', ABSENT), ('categories', {}), ('annotations', [1])]
)
def test_entry_without_an_id(with_annotations, coco, refused, part, id):
    entry = coco[part][-1]
    if id is ABSENT:
        del entry['id']
    else:
        entry['id'] = id
    assert 'spoilt.json is not a COCO' in refused(with_annotations(coco))


def every(part, **changes):
    return lambda coco: [entry.update(changes) for entry in coco[part]]


@pytest.mark.parametrize(
    'spoil',
    [
        lambda coco: coco.update(annotations=[]),
        every('annotations', area=0),
        every('annotations', bbox=[99, 99, 9, 9]),
        every('annotations', bbox=[9, 9, 9, 0]),
        every('annotations', iscrowd=1),
        every('annotations', image_id=999),
    ],
)
def test_nothing_to_train_on(with_annotations, coco, refused, spoil):
    spoil(coco)
    assert 'no object to train on' in refused(with_annotations(coco))


def test_no_images(with_annotations, coco, refused):
    coco['images'] = []
    assert 'lists no images' in refused(with_annotations(coco))


def test_missing_images(with_annotations, coco, refused):
    coco['images'][3]['file_name'] = 'none.jpg'
    message = refused(with_annotations(coco))
    assert '1 of 16' in message and '/images/train/none.jpg' in message


def test_classes_of_the_config_that_the_file_lacks(with_annotations, coco, refused):
    coco['categories'][0]['name'] = 'cell'
    message = refused(with_annotations(coco))
    assert '(circle, square, star, triangle)' in message
    assert '(cell, square, star, triangle)' in message
    assert 'train_dataloader.dataset.metainfo.classes' in message


def test_order_of_the_classes(with_annotations, coco, refused):
    coco['categories'].reverse()
    assert '(triangle, star, square, circle)' in refused(with_annotations(coco))


def test_categories_of_one_name(with_annotations, coco, refused):
    coco['categories'].append(dict(id=9, name='circle'))
    assert 'categories (1, 9) share a name' in refused(with_annotations(coco))


def test_unknown_category_id(with_annotations, coco, refused):
    coco['annotations'][0]['category_id'] = 99
    assert '1 annotations have a category_id (99)' in refused(with_annotations(coco))


def test_subset_of_the_classes(check, cfg):
    """This is mmdet's way to leave categories out, but may be an accident."""
    classes = ('circle', 'square', 'star')
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.metainfo = dict(classes=classes)
    cfg.model.roi_head.bbox_head.num_classes = 3
    warnings = [w for w in check(cfg, 'train') if 'left out' in w]
    assert len(warnings) == 2 and '(triangle)' in warnings[0]


@pytest.mark.parametrize(
    'key, value',
    [
        ('bbox', [1, 2, 0.5, 5]),
        ('bbox', [1, 2, 5, 0]),
        ('bbox', [1, 2, -5, 5]),
        ('bbox', [-9, 2, 5, 5]),
        ('bbox', [64, 2, 5, 5]),
        ('bbox', [2, -9, 5, 5]),
        ('bbox', [2, 1e9, 5, 5]),
        ('area', 0),
        ('area', -1),
        ('image_id', 999),
        ('bbox', [-9, -9, 99, 99]),
        ('bbox', [60, 50, 99, 5]),
        ('bbox', [-9, 5, 1e9, 5]),
    ],
)
def test_warning_of_what_mmdet_leaves_out(check, with_annotations, coco, key, value):
    coco['annotations'][0][key] = value
    assert _num_left_out(check, with_annotations(coco)) in (0, 1)


def test_images_without_a_size(check, with_annotations, coco):
    coco['images'][0]['width'] = 0
    assert _num_left_out(check, with_annotations(coco)) > 0


def _num_left_out(check, cfg):
    """How many annotations mmdet leaves out, as the warning says."""
    init_default_scope('mmdet')
    node = dict(cfg.train_dataloader.dataset, pipeline=[], serialize_data=False)
    loaded = sum(len(info['instances']) for info in DATASETS.build(node))
    warnings = [w for w in check(cfg) if 'left out' in w]
    number = 48 - loaded
    assert len(warnings) == (number > 0)
    assert not warnings or f': {number} annotations' in warnings[0]
    return number


def test_masks_of_a_model_without_masks(cfg, refused):
    cfg.val_evaluator.metric = ['bbox', 'segm']
    assert 'no mask_head: pass --cfg-options val_evaluator.metric=[bbox]' in refused(
        cfg
    )


@pytest.mark.parametrize('value', [ABSENT, None, [], '', {}])
def test_mask_model_without_masks(check, with_annotations, coco, refused, value):
    coco['annotations'][0]['segmentation'] = value
    if value is ABSENT:
        del coco['annotations'][0]['segmentation']
    cfg = with_annotations(coco)
    check(cfg, 'train')  # boxes are enough for this model
    cfg.train_dataloader.dataset.pipeline[1].with_mask = True
    assert '1 of 48 annotations have no segmentation' in refused(cfg)


def test_test_images_need_no_annotations(check, cfg, coco, shapes, tmp_path):
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    del coco['annotations']
    path = tmp_path / 'image_info.json'
    path.write_text(json.dumps(coco))
    cfg.test_dataloader.dataset.ann_file = str(path)
    cfg.test_evaluator.ann_file = str(path)
    check(cfg, 'test')


def test_evaluator_of_other_images(cfg, shapes, refused, tmp_path):
    cfg.test_dataloader.dataset.ann_file = 'annotations/train.json'
    cfg.test_dataloader.dataset.data_prefix.img = 'images/train'
    assert 'test_evaluator.ann_file' in refused(cfg, 'test')
    # Other images, although both files number theirs from 1.
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    for image in coco['images']:
        image['file_name'] = f'other_{image["file_name"]}'
    path = tmp_path / 'other.json'
    path.write_text(json.dumps(coco))
    cfg.val_evaluator.ann_file = str(path)
    message = refused(cfg)
    assert str(path) in message and 'val_dataloader.dataset.ann_file' in message


def test_each_file_is_read_once(check, cfg, shapes, tmp_path, monkeypatch):
    copy = tmp_path / 'copy.json'
    copy.write_bytes((shapes / 'annotations/val.json').read_bytes())
    halves = [dict(cfg.val_dataloader.dataset, indices=n) for n in (4, -4)]
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=halves)
    cfg.val_evaluator = [dict(cfg.val_evaluator, ann_file=str(copy))] * 2
    paths = []

    def read(path):
        paths.append(path.rsplit('/')[-1])
        return CocoFile(path)

    monkeypatch.setattr('ra_mm.checks.context.CocoFile', read)
    check(cfg, 'train')
    assert sorted(paths) == ['copy.json', 'train.json', 'val.json']
