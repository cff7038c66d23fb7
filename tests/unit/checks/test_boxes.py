"""The boxes of annotation files, and what is left of them."""

import pytest


def change_boxes(coco, change):
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    for annotation in coco['annotations']:
        size = sizes[annotation['image_id']]
        annotation['bbox'] = change(*annotation['bbox'], *size)
    return coco


@pytest.mark.parametrize(
    'change, expected',
    [
        (lambda x, y, w, h, *_: [x, y, x + w, y + h], 'x1, y1, x2, y2'),
        (lambda x, y, w, h, *_: [x + w / 2, y + h / 2, w, h], 'a centre'),
        (lambda x, y, w, h, W, H: [x / W, y / H, w / W, h / H], 'within 0 and 1'),
    ],
)
def test_boxes_of_another_form(refused, with_annotations, coco, change, expected):
    assert expected in refused(with_annotations(change_boxes(coco, change)))


def repeat(annotations):
    return [*annotations, *({**a, 'id': a['id'] + 1000} for a in annotations)]


def move_polygons(annotations):
    for a in annotations:
        a['segmentation'] = [[v + a['bbox'][2] for v in p] for p in a['segmentation']]
    return annotations


@pytest.mark.parametrize(
    'change, expected',
    [(repeat, ['repeat']), (move_polygons, ['polygons']), (list, [])],
)
def test_boxes_that_contradict_others(check, with_annotations, coco, change, expected):
    coco['annotations'] = change(coco['annotations'])
    text = '\n'.join(check(with_annotations(coco)))
    assert [word for word in ('repeat', 'polygons') if word in text] == expected


@pytest.mark.parametrize('num, is_error', [(1, False), (48, True)])
def test_boxes_that_leave_their_images(
    check, refused, with_annotations, coco, num, is_error
):
    """Some data sets have boxes of the hidden part too."""
    for annotation in coco['annotations'][:num]:
        x, y, w, h = annotation['bbox']
        annotation['bbox'] = [x - w, y - h, 2.5 * w, 2.5 * h]
    cfg = with_annotations(coco)
    text = refused(cfg) if is_error else '\n'.join(check(cfg))
    assert 'boxes exceed their image' in text and coco['images'][0]['file_name'] in text


def test_all_images_are_filtered(refused, with_annotations, coco):
    cfg = with_annotations(coco)
    cfg.train_dataloader.dataset.filter_cfg = dict(min_size=100)
    text = refused(cfg)
    assert 'filter_cfg leaves out 16 of 16' in text and 'min_size=100' in text


def test_most_images_are_filtered(check, with_annotations, coco):
    kept = {image['id'] for image in coco['images'][:4]}
    coco['annotations'] = [a for a in coco['annotations'] if a['image_id'] in kept]
    warnings = check(with_annotations(coco), 'train')
    assert any('leaves out 12 of 16' in text for text in warnings)


def test_file_that_is_listed_twice(check, with_annotations, coco):
    coco['images'].append(dict(coco['images'][0], id=1000))
    warnings = check(with_annotations(coco), 'train')
    assert any(coco['images'][0]['file_name'] in text for text in warnings)


def test_no_object_of_any_class(refused, with_annotations, coco):
    """Another value of filter_cfg would leave nothing to train on."""
    coco['categories'].append(dict(id=9, name='hexagon'))
    cfg = with_annotations(coco)
    cfg.train_dataloader.dataset.metainfo = dict(classes=('hexagon',))
    assert 'no object to train on of (hexagon)' in refused(cfg)
