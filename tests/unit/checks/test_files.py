"""Missing data, and classes that do not fit the model."""

import json

import pytest
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS


@pytest.fixture
def no_data(cfg, tmp_path, monkeypatch):
    """The config with the root of all data in a folder that does not exist."""
    monkeypatch.chdir(tmp_path)
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.data_root = 'data/none'
    cfg.val_evaluator.ann_file = 'data/none/annotations/val.json'
    return cfg


def test_missing_root(no_data, refused, tmp_path):
    """It is reported once, with the options that name another one."""
    root, file = refused(no_data).splitlines()[1:]
    assert f'data/none does not exist in {tmp_path}' in root
    assert (
        '--cfg-options train_dataloader.dataset.data_root=PATH '
        'val_dataloader.dataset.data_root=PATH'
    ) in root
    assert 'val_evaluator.ann_file=PATH' in file


def test_link_to_the_data(check, no_data, shapes, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/none').symlink_to(shapes)
    check(no_data, 'train')


@pytest.mark.parametrize(
    'option, value',
    [
        ('train_dataloader.dataset.data_prefix.img', 'none'),
        ('val_dataloader.dataset.ann_file', 'none.json'),
        ('val_evaluator.ann_file', 'none.json'),
    ],
)
def test_missing_file(cfg, refused, option, value):
    cfg.merge_from_dict({option: value})
    message = refused(cfg)
    assert f'{value}' in message and f'--cfg-options {option}=' in message


def test_wrapped_datasets(cfg, refused):
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset',
            datasets=[dataset, dict(dataset, ann_file='none.json')],
        ),
    )
    assert 'train_dataloader.dataset.dataset.datasets.1.ann_file=PATH' in refused(cfg)


def test_images_that_no_file_lists(check, with_annotations, coco, tmp_path):
    """Those of the validation may be in the same folder."""

    def pick(start, stop):
        images = coco['images'][start:stop]
        ids = {image['id'] for image in images}
        annotations = [a for a in coco['annotations'] if a['image_id'] in ids]
        return dict(coco, images=images, annotations=annotations)

    cfg = with_annotations(pick(0, 8))
    path = tmp_path / 'val.json'
    path.write_text(json.dumps(pick(8, 12)))
    dataset = cfg.val_dataloader.dataset
    dataset.ann_file = cfg.val_evaluator.ann_file = str(path)
    dataset.data_prefix.img = 'images/train/'
    (text,) = [text for text in check(cfg) if 'images/train' in text]
    assert '4 with .jpg' in text


def test_segmentation(check, load, refused):
    cfg = load('segmenter')
    check(cfg, 'train')
    dataset = cfg.train_dataloader.dataset
    dataset.data_prefix.seg_map_path = 'masks/val'
    assert '8 of 16 files are missing' in refused(cfg)
    dataset.data_prefix.seg_map_path = 'masks/train'
    dataset.seg_map_suffix = '_labels.gif'
    assert '16 of 16 files are missing (seg_map_path' in refused(cfg)
    dataset.img_suffix = '.tif'
    assert 'train_dataloader.dataset.img_suffix' in refused(cfg)


def test_detection_dataset_with_a_suffix(check, cfg, shapes, monkeypatch):
    """mmrotate's DOTADataset has an img_suffix, but is not mmseg's."""
    import mmseg.datasets  # noqa: F401

    class DOTADataset(BaseDetDataset):
        METAINFO = dict(classes=('circle', 'square', 'star', 'triangle'))

        def __init__(self, *args, img_suffix='png', **kwargs):
            self.img_suffix = img_suffix
            super().__init__(*args, **kwargs)

        def load_data_list(self):
            raise AssertionError

    monkeypatch.setitem(DATASETS.module_dict, 'DOTADataset', DOTADataset)
    dataset = dict(type='DOTADataset', data_root=str(shapes), img_suffix='tif')
    cfg.train_dataloader.dataset = dict(dataset, data_prefix=dict(img='images'))
    check(cfg, 'train')
