"""Small drawn data sets of each kind, to spoil, and the checks of their samples."""

import json

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from ra_mm.checks.rules import check_samples
from ra_mm.checks.sample import load_parts


def write_image(path, seed):
    """Write noise in colour, of 64 x 48 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *str(path.parent).encode()])  # no copies
    pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


class CocoFolder:
    """Images with two boxes each, of two classes."""

    def __init__(self, root, num=12):
        self.root, self.classes = root, ('cat', 'dog')
        categories = [dict(id=3, name='cat'), dict(id=7, name='dog')]
        self.content = dict(images=[], annotations=[], categories=categories)
        for i in range(num):
            name = f'{i:03}.jpg'
            write_image(root / 'images' / name, seed=i)
            image = dict(id=i + 1, file_name=name, width=64, height=48)
            self.content['images'].append(image)
            for j in range(2):
                x, y, w, h = 4 + 20 * j, 5 + i % 12, 16, 18
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                ids = dict(id=2 * i + j, image_id=i + 1, category_id=3 + 4 * j)
                place = dict(bbox=[x, y, w, h], area=w * h, segmentation=[corners])
                self.content['annotations'].append(ids | place | dict(iscrowd=0))

    def build(self, with_mask=False, poly2mask=True, steps=(), **kwargs):
        (self.root / 'coco.json').write_text(json.dumps(self.content))
        init_default_scope('mmdet')
        load = dict(with_bbox=True, with_mask=with_mask, poly2mask=poly2mask)
        settings = dict(
            type='CocoDataset',
            data_root=str(self.root),
            ann_file='coco.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=self.classes),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', **load),
                *steps,
                dict(type='PackDetInputs'),
            ],
        )
        return {**settings, **kwargs}


class MaskFolder:
    """Images and masks with three classes, 0 to 2."""

    def __init__(self, root, num=12):
        self.root, self.num = root, num
        self.classes = ('ground', 'cat', 'dog')
        for i in range(num):
            write_image(root / 'images' / f'{i:03}.jpg', seed=i)
            self.write_mask(i, self.values(i))

    @staticmethod
    def values(i=0):
        mask = np.zeros((48, 64), np.uint8)
        mask[5:20, 5:30] = 1
        mask[25 : 35 + i % 5, 20:50] = 2
        return mask

    def write_mask(self, i, values):
        path = self.root / 'masks' / f'{i:03}.png'
        path.parent.mkdir(exist_ok=True)
        image = values if isinstance(values, Image.Image) else Image.fromarray(values)
        image.save(path)

    def edit(self, change):
        for i in range(self.num):
            self.write_mask(i, change(self.values(i)))

    def build(self, **kwargs):
        init_default_scope('mmseg')
        steps = 'LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs'
        settings = dict(
            type='BaseSegDataset',
            data_root=str(self.root),
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            metainfo=dict(classes=self.classes),
            pipeline=[dict(type=name) for name in steps],
        )
        return {**settings, **kwargs}


class ClassFolder:
    """Four images in each of the class folders."""

    def __init__(self, root, classes=('cat', 'dog', 'eel'), num=4):
        self.root, self.classes = root, classes
        for name in classes:
            for i in range(num):
                write_image(root / name / f'{i}.png', seed=i)

    def build(self, **kwargs):
        init_default_scope('mmpretrain')
        settings = dict(
            type='CustomDataset',
            data_root=str(self.root),
            metainfo=dict(classes=self.classes),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        )
        return {**settings, **kwargs}

    def write_list(self):
        path = self.root / 'list.txt'
        images = sorted(self.root.glob('*/*'))
        labels = [self.classes.index(image.parent.name) for image in images]
        lines = [f'{p.relative_to(self.root)} {n}' for p, n in zip(images, labels)]
        path.write_text('\n'.join(lines))
        return str(path)


@pytest.fixture
def coco(tmp_path):
    return CocoFolder(tmp_path / 'coco')


@pytest.fixture
def masks(tmp_path):
    return MaskFolder(tmp_path / 'seg')


@pytest.fixture
def folders(tmp_path):
    return ClassFolder(tmp_path / 'cls')


@pytest.fixture(scope='session')
def make_folders():
    return ClassFolder


@pytest.fixture(scope='session')
def look():
    """Check settings of training data, and of others; return (errors, warnings)."""

    def run(train, val=None):
        settings = dict(train=train, val=val)
        datasets = {
            f'{part}_dataloader.dataset': DATASETS.build(node)
            for part, node in settings.items()
            if node
        }
        found = check_samples(load_parts(datasets, seconds=0))
        return found.errors, found.warnings

    return run


@pytest.fixture(scope='session')
def error(look):
    """The one error about settings."""

    def run(*args):
        (text,), _ = look(*args)
        return text

    return run


@pytest.fixture(scope='session')
def warning(look):
    """The one warning about settings without errors."""

    def run(*args):
        errors, (text,) = look(*args)
        assert not errors
        return text

    return run
