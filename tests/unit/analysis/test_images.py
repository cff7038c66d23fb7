"""Listing class folders and reading images through a test pipeline."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

from ra_mm.analysis.images import find_images, get_reader
from ra_mm.errors import UserError

NAMES = ('b/2.png', 'b/1.JPG', 'b/deeper/3.tif', 'a/1.bmp', 'b/.4.png', 'b/5.txt')


@pytest.fixture
def root(tmp_path):
    for name in (*NAMES, '.hidden/1.png', 'top.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def listed(root, *args):
    return [
        f'{label}: {path.relative_to(root)}' for label, path in find_images(root, *args)
    ]


def test_find_images(root):
    b = ['b: b/1.JPG', 'b: b/2.png', 'b: b/deeper/3.tif']
    assert listed(root, None, 9) == ['a: a/1.bmp', *b]
    assert listed(root, None, 1) == ['a: a/1.bmp', b[0]]
    assert listed(root, ['b', 'a', 'b'], 2) == [*b[:2], 'a: a/1.bmp']


def test_nothing_to_find(root):
    with pytest.raises(UserError, match='class moon: .*a, b'):
        find_images(root, ['a', 'moon'], 9)
    with pytest.raises(UserError, match='none has no folders'):
        find_images(root / 'none', None, 9)
    (root / 'c').mkdir()
    with pytest.raises(UserError, match='c has no images'):
        find_images(root, None, 9)


@pytest.fixture
def model():
    model = nn.Module()
    model.data_preprocessor = ImgDataPreprocessor(
        mean=[1.0, 2.0, 3.0], std=[2.0, 2.0, 2.0], bgr_to_rgb=True, pad_size_divisor=8
    )
    return model


PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations'),
    dict(type='mmpretrain.PackInputs'),
]


def test_read(model, tmp_path):
    """RGB to show, and what the preprocessor makes of it; no annotations."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    init_default_scope('mmpretrain')
    loader = dict(dataset=dict(dataset=dict(pipeline=PIPELINE)))
    read = get_reader(Config(dict(test_dataloader=loader)), model)
    image, picture = read(tmp_path / 'a.png')
    assert (picture == pixels).all()
    expected = torch.zeros(1, 3, 8, 16)
    normalized = torch.tensor((pixels - [1.0, 2.0, 3.0]) / 2)
    expected[..., :6, :10] = normalized.permute(2, 0, 1)
    torch.testing.assert_close(image, expected)
    (tmp_path / 'b.png').write_bytes((tmp_path / 'a.png').read_bytes()[:-20])
    with pytest.raises(UserError, match='b.png'):
        read(tmp_path / 'b.png')


@pytest.mark.parametrize('loader', [None, dict(), dict(dataset=dict(type='A'))])
def test_no_pipeline(loader, model):
    with pytest.raises(UserError, match='test_dataloader'):
        get_reader(Config(dict(test_dataloader=loader)), model)
