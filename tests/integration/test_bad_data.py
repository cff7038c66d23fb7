"""Missing or wrong data ends in one message before a training begins."""

import json

import pytest


def test_missing_dataset(message, train, detector):
    text = message(
        train,
        detector,
        '--cfg-options',
        'train_dataloader.dataset.data_root=data/none',
        'val_dataloader.dataset.data_root=data/none',
        'val_evaluator.ann_file=data/none/annotations/val.json',
    )
    assert 'data/none' in text
    assert (
        '--cfg-options train_dataloader.dataset.data_root=DIR '
        'val_dataloader.dataset.data_root=DIR '
        'val_evaluator.ann_file=DIR/annotations/val.json'
    ) in text


def test_everything_missing_in_one_message(message, train, detector, tmp_path):
    text = message(
        train,
        detector,
        '--resume',
        '--cfg-options',
        'train_dataloader.dataset.data_prefix.img=none',
        'val_dataloader.dataset.ann_file=none.json',
        'val_evaluator.ann_file=none2.json',
    )
    for what in (f'{tmp_path}/work', '/none', '/none.json', 'none2.json'):
        assert what in text
    assert not (tmp_path / 'work').exists()


def rename(coco):
    coco['categories'][0]['name'] = 'cell'


def undefine(coco):
    coco['annotations'][0]['category_id'] = 99


def reverse(coco):
    coco['categories'].reverse()


def remove_area(coco):
    del coco['annotations'][0]['area']


def rename_image(coco):
    coco['images'][0]['file_name'] = 'none.jpg'


@pytest.mark.parametrize(
    'spoil, expected',
    [
        (rename, '(cell, square, star, triangle)'),
        (undefine, '99'),
        (reverse, '(triangle, star, square, circle)'),
        (lambda coco: coco.update(images=[]), 'images'),
        (lambda coco: coco.update(annotations=[]), 'annotations'),
        (lambda coco: coco.pop('categories'), 'categories'),
        (remove_area, "'area'"),
        (rename_image, 'none.jpg'),
    ],
)
def test_annotations(message, train, detector, shapes, tmp_path, spoil, expected):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    spoil(coco)
    spoilt = tmp_path / 'spoilt.json'
    spoilt.write_text(json.dumps(coco))
    text = message(
        train, detector, '--cfg-options', f'train_dataloader.dataset.ann_file={spoilt}'
    )
    assert expected in text
    assert str(spoilt) in text


def test_annotations_that_are_not_json(message, train, detector, tmp_path):
    (tmp_path / 'bad.json').write_text('{"images": [')
    assert 'bad.json' in message(
        train,
        detector,
        '--cfg-options',
        f'train_dataloader.dataset.ann_file={tmp_path}/bad.json',
    )


def test_boxes_for_a_mask_model(message, train, detector, shapes, tmp_path):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    for annotation in coco['annotations']:
        del annotation['segmentation']
    (tmp_path / 'boxes.json').write_text(json.dumps(coco))
    text = message(
        train,
        detector,
        '--cfg-options',
        f'train_dataloader.dataset.ann_file={tmp_path}/boxes.json',
        'train_dataloader.dataset.pipeline.1.with_mask=True',
    )
    assert 'boxes.json' in text and 'segmentation' in text


def test_evaluator_of_another_split(message, train, detector, shapes, tmp_path):
    """It has other images, though both are numbered from 1."""
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    for image in coco['images']:
        image['file_name'] = f'other_{image["file_name"]}'
    (tmp_path / 'other.json').write_text(json.dumps(coco))
    text = message(
        train,
        detector,
        '--cfg-options',
        f'val_evaluator.ann_file={tmp_path}/other.json',
    )
    assert 'other.json' in text and 'val_dataloader.dataset.ann_file' in text


def test_evaluator_of_other_images(message, test, detector, checkpoint):
    assert 'test_evaluator.ann_file' in message(
        test,
        detector,
        checkpoint,
        '--cfg-options',
        'test_dataloader.dataset.ann_file=annotations/train.json',
        'test_dataloader.dataset.data_prefix.img=images/train',
    )


@pytest.mark.parametrize(
    'option, expected',
    [
        ('train_dataloader.dataset.data_prefix.seg_map_path=none', '/none'),
        ('train_dataloader.dataset.data_prefix.seg_map_path=masks/val', '8 of 16'),
        ('train_dataloader.dataset.img_suffix=.tif', '.tif'),
        ('train_dataloader.dataset.seg_map_suffix=_labels.gif', '_labels.gif'),
        ('model.decode_head.num_classes=150', 'model.decode_head.num_classes=5'),
    ],
)
def test_segmentation(message, train, configs, option, expected):
    assert expected in message(train, configs / 'segmenter.py', '--cfg-options', option)


def test_class_folders(message, train, configs, shapes, tmp_path):
    config, classes = configs / 'classifier.py', shapes / 'classes'

    def look(option):
        return message(train, config, '--cfg-options', option)

    folder = f'{classes}/train/star'  # without folders for the classes
    assert folder in look(f'train_dataloader.dataset.data_prefix={folder}')
    # One class is missing in the validation data: labels would shift.
    for name in ('circle', 'star', 'triangle'):
        (tmp_path / name).symlink_to(classes / 'val' / name)
    text = look(f'val_dataloader.dataset.data_prefix={tmp_path}')
    assert 'val_dataloader.dataset' in text and '(circle, star, triangle)' in text
    assert 'model.head.num_classes=4' in look('model.head.num_classes=1000')
    assert '(a, b)' in look('train_dataloader.dataset.metainfo.classes=[a,b]')


@pytest.mark.parametrize('workers', [0, 1])
def test_image_that_cannot_be_read(message, train, configs, shapes, tmp_path, workers):
    """One sentence with its path, also from a process that loads it."""
    for folder in (shapes / 'classes/train').iterdir():
        (tmp_path / 'train' / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (tmp_path / 'train' / folder.name / path.name).symlink_to(path)
    path = tmp_path / 'train/star' / path.name
    path.unlink(missing_ok=True)
    path.write_bytes(b'')
    text = message(
        train,
        configs / 'classifier.py',
        '--cfg-options',
        f'train_dataloader.dataset.data_prefix={tmp_path}/train',
        f'train_dataloader.num_workers={workers}',
    )
    assert text.startswith(str(path))
    assert '\n' not in text
