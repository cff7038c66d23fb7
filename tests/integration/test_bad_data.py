"""Data that only loading finds wrong ends in one message with its path."""

import shutil

import pytest


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
