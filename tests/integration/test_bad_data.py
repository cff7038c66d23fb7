"""Data that only loading finds wrong ends in one message with its path."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def copied(shapes, tmp_path):
    """A copy of the drawn shapes, to spoil."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


@pytest.mark.parametrize('workers', [0, 1])
def test_image_that_cannot_be_read(message, train, configs, copied, workers):
    """One sentence, even if a worker process loads the image."""
    images = sorted((copied / 'classes/train').glob('*/*'))
    for path in images:
        path.write_bytes(b'')
    text = message(
        train,
        configs / 'classifier.py',
        '--no-data-check',
        '--cfg-options',
        f'train_dataloader.dataset.data_root={copied}/classes',
        f'train_dataloader.num_workers={workers}',
    )
    assert text.split(' ')[0] in map(str, images)
    assert '\n' not in text


@pytest.mark.parametrize(
    'mask, expected',
    [
        (np.full((64, 64), 7, np.uint8), '(6)'),  # reduce_zero_label
        (np.zeros((64, 32), np.uint8), '(64, 32)'),
    ],
)
def test_mask_that_does_not_fit(message, train, configs, copied, mask, expected):
    """Training itself would not notice."""
    masks = sorted((copied / 'masks/train').iterdir())
    for path in masks:
        Image.fromarray(mask).save(path)
    text = message(
        train,
        configs / 'segmenter.py',
        '--no-data-check',
        '--cfg-options',
        f'train_dataloader.dataset.data_root={copied}',
    )
    assert any(str(path) in text for path in masks)
    assert expected in text
