"""The checks of data, through tools/check_data.py and tools/train.py."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def check_data(tool):
    return tool('check_data')


@pytest.fixture
def copied(shapes, tmp_path):
    """A copy of the drawn shapes, to spoil."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


@pytest.mark.parametrize('name', ['detector', 'segmenter', 'classifier'])
def test_report_and_contact_sheets(check_data, configs, tmp_path, capsys, name):
    check_data(configs / f'{name}.py', '--out', tmp_path / 'out')
    report = (tmp_path / 'out/report.txt').read_text()
    assert report in capsys.readouterr().out
    assert 'error' not in report and 'warning' not in report
    for label in ('circle', 'square', 'star', 'triangle'):
        assert re.search(rf'^{label} .*[1-9]', report, re.M)
    sheets = sorted((tmp_path / 'out').glob('*.png'))
    assert [p.name for p in sheets] == [
        'train_dataloader.dataset.png',
        'val_dataloader.dataset.png',
    ]
    assert np.array(Image.open(sheets[0])).std() > 10


def test_status_of_wrong_data(check_data, configs, capsys):
    options = [
        f'val_dataloader.dataset.metainfo.classes={list("abc")}'.replace(' ', '')
    ]
    with pytest.raises(SystemExit) as stop:
        check_data(configs / 'detector.py', '--cfg-options', *options)
    assert stop.value.code == 1
    assert 'error: ' in capsys.readouterr().out


def test_only_the_data_matter(check_data, detector, capsys):
    """Nothing about devices, weights, schedules and learning rates is said."""
    options = [
        'load_from=none.pth',
        'train_cfg.max_epochs=3',
        'optim_wrapper=None',
        'auto_scale_lr.base_batch_size=1000',
    ]
    check_data(detector, '--cfg-options', *options)
    assert 'nothing is wrong' in capsys.readouterr().out


def test_data_that_cannot_be_built(message, check_data, detector):
    option = 'train_dataloader.dataset.data_root=none'
    assert 'dataset.data_root=' in message(
        check_data, detector, '--cfg-options', option
    )


def test_warnings_are_logged(train, detector, shapes, tmp_path):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    coco['annotations'][0]['area'] = 0
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(coco))
    train(detector, '--cfg-options', f'train_dataloader.dataset.ann_file={path}')
    (log,) = tmp_path.glob('work/*/*.log')
    assert f'{path}: 1 annotations are left out' in log.read_text()


A_TRANSFORM = """
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

@TRANSFORMS.register_module(force=True)
class ATransform(BaseTransform):
    def transform(self, results):
        return self.halve(results)

    def halve(self, results):
        return results['no such key'] / 2  # line 11
"""
BUG = """
_base_ = '{}'
custom_imports = dict(imports=['{}'])
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ATransform'),
            dict(type='PackInputs')
        ]))
"""


def test_bug_of_a_transform_keeps_its_traceback(
    message, train, configs, tmp_path, monkeypatch
):
    module = tmp_path / 'own_transform.py'
    module.write_text(A_TRANSFORM)
    (tmp_path / 'config.py').write_text(
        BUG.format(configs / 'classifier.py', module.stem)
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = message(train, tmp_path / 'config.py')
    assert 'ATransform' in text and 'no such key' in text
    (path,) = tmp_path.glob('work/error_*.log')
    assert f'File "{module}", line 11, in halve' in path.read_text()


def turn_images(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in folder.glob('images/*/*.jpg'):
        Image.open(path).crop((0, 0, 64, 40)).save(path, exif=exif)
    for path in folder.glob('annotations/*.json'):
        coco = json.loads(path.read_text())
        for image in coco['images']:
            image['height'] = 40
        coco['annotations'] = [
            a for a in coco['annotations'] if a['bbox'][1] + a['bbox'][3] <= 40
        ]
        path.write_text(json.dumps(coco))


def test_no_data_check(message, train, detector, copied):
    """The same data is trained on with --no-data-check only."""
    turn_images(copied)
    options = [
        f'{part}_dataloader.dataset.data_root={copied}' for part in ('train', 'val')
    ]
    options.append(f'val_evaluator.ann_file={copied}/annotations/val.json')
    text = message(train, detector, '--cfg-options', *options)
    assert 'EXIF' in text and str(copied) in text
    train(detector, '--no-data-check', '--cfg-options', *options)


def remove_segmentations(folder):
    path = folder / 'annotations/val.json'
    coco = json.loads(path.read_text())
    del coco['annotations'][0]['segmentation']
    path.write_text(json.dumps(coco))


def change_masks(change):
    def run(folder):
        for path in folder.glob('masks/*/*.png'):
            mask = np.array(Image.open(path))
            Image.fromarray(change(mask).astype(np.uint8)).save(path)

    return run


CLASSES = '{}_dataloader.dataset.metainfo.{}'
TWO = [CLASSES.format(p, 'classes') + '=[background,object]' for p in ('train', 'val')]
TWO += [CLASSES.format(p, 'palette') + '=[[0,0,0],[255,0,0]]' for p in ('train', 'val')]


@pytest.mark.parametrize(
    'name, spoil, options',
    [
        ('detector', turn_images, []),
        ('mask', remove_segmentations, []),
        ('segmenter', change_masks(lambda m: np.minimum(m, 2)), TWO),
        ('segmenter', change_masks(lambda m: np.minimum(m, 2)), TWO[:2]),
        ('classifier', None, ['model.head.num_classes=7']),
    ],
)
def test_advice_is_complete(
    train, configs, copied, tmp_path, capsys, name, spoil, options
):
    """Followed to the letter, it trains and validates."""
    text = (configs / f'{name.replace("mask", "detector")}.py').read_text()
    text = text.replace(
        'faster_rcnn_ra_r18', f'{name}_rcnn_ra_r18'.replace('detector', 'faster')
    )
    config = tmp_path / 'config.py'
    source = re.search(r"data(?:_root)? ?= ?'(.*?/shapes)", text)[1]
    config.write_text(text.replace(source, str(copied)))
    if spoil:
        spoil(copied)
    options = [*options, 'train_dataloader.sampler.shuffle=True']
    with pytest.raises(SystemExit):
        train(config, '--cfg-options', *options)
    message = capsys.readouterr().err.rpartition('error: ')[2]
    advice = [
        option.rstrip(';,.')
        for part in message.split('--cfg-options ')[1:]
        for option in re.match(r'((?:[\w.]+=\S+\s*)+)', part)[1].split()
    ]
    assert advice
    train(config, '--cfg-options', *options, *advice)
