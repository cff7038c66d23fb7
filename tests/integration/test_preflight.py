"""What the preflight finds, through the tools: one message and status 1."""

import json
import shutil

import pytest


def test_problems_of_all_kinds_in_one_message(message, train, detector, tmp_path):
    text = message(
        train,
        detector,
        '--resume',
        '--cfg-options',
        'train_dataloader.dataset.data_prefix.img=none',
        'val_dataloader.dataset.ann_file=none.json',
        'val_evaluator.ann_file=none.json',
    )
    for option in (
        '--work-dir',
        'train_dataloader.dataset.data_prefix.img=PATH',
        'val_dataloader.dataset.ann_file=PATH',
        'val_evaluator.ann_file=PATH',
    ):
        assert option in text
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    'config, option, expected',
    [
        ('detector', 'train_cfg.max_epochs=0', 'train_cfg.max_epochs=0'),
        ('segmenter', 'model.decode_head.num_classes=150', 'num_classes=5'),
        ('segmenter', 'train_dataloader.dataset.img_suffix=.tif', 'img_suffix'),
        ('classifier', 'model.head.num_classes=1000', 'model.head.num_classes=4'),
    ],
)
def test_option(message, train, configs, tmp_path, config, option, expected):
    path = configs / f'{config}.py'
    assert expected in message(train, path, '--cfg-options', option)
    assert not (tmp_path / 'work').exists()


def test_warnings_are_logged(train, detector, shapes, tmp_path):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    coco['annotations'][0]['area'] = 0
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(coco))
    train(detector, '--cfg-options', f'train_dataloader.dataset.ann_file={path}')
    (log,) = tmp_path.glob('work/*/*.log')
    assert f'{path}: 1 annotations are left out' in log.read_text()


def test_advice_followed_to_the_letter(
    message, train, detector, shapes, tmp_path, monkeypatch
):
    """The folder, the number of classes, then training."""
    monkeypatch.chdir(tmp_path)
    options = [
        'train_dataloader.dataset.data_root=data/none',
        'val_dataloader.dataset.data_root=data/none',
        'val_evaluator.ann_file=data/none/annotations/val.json',
        'model.roi_head.bbox_head.num_classes=80',
    ]
    text = message(train, detector, '--cfg-options', *options)
    assert 'data/none does not exist' in text
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/none').symlink_to(shapes)
    advice = 'model.roi_head.bbox_head.num_classes=4'
    assert advice in text
    train(detector, '--cfg-options', *options, advice)


def test_file_that_the_evaluator_lacks(message, test, detector, checkpoint, shapes):
    assert 'test_evaluator.ann_file' in message(
        test,
        detector,
        checkpoint,
        '--cfg-options',
        'test_dataloader.dataset.ann_file=annotations/train.json',
        'test_dataloader.dataset.data_prefix.img=images/train',
    )


@pytest.mark.parametrize(
    'options, expected',
    [
        # Some of it is what mmengine and the toolboxes say while they build the run.
        (['train_cfg.max_epoch=3'], "'max_epoch'"),
        (['train_dataloader.dataset.type=CocoDatset'], 'CocoDatset'),
        (['optim_wrapper.optimizer.type=SGDD'], 'optim_wrapper'),
        (['val_evaluator.metrc=bbox'], "'metrc'"),
        (['train_dataloader.persistent_workers=True'], 'persistent_workers'),
        (['model.neck=5'], 'dict'),
    ],
)
def test_mistake_that_building_finds(message, train, detector, options, expected):
    assert expected in message(train, detector, '--cfg-options', *options)


def test_class_folders(message, train, configs, shapes, tmp_path):
    """mmpretrain itself compares them with the classes of the config."""
    shutil.copytree(shapes / 'classes', tmp_path / 'classes')
    assert 'number of' in message(
        train,
        configs / 'classifier.py',
        '--cfg-options',
        'train_dataloader.dataset.metainfo.classes=[a,b]',
        'val_dataloader.dataset.metainfo.classes=[a,b]',
        'model.head.num_classes=2',
    )
