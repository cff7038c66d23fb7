"""Images and masks that cannot be read: one message with their path."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).parents[2]
# The first batch has these files.
IN_ORDER = ('--cfg-options', 'train_dataloader.sampler.shuffle=False')
FILES = dict(
    detector='images/train/000003.jpg',
    segmenter='images/train/000003.jpg',
    masks='masks/train/000003.png',
    classifier='classes/train/star/0001.jpg',
)


@pytest.fixture
def spoilt_data(configs, shapes, tmp_path):
    """A config whose data is a copy, and the path of one of its files."""

    def prepare(kind):
        shutil.copytree(shapes, tmp_path / 'shapes')
        name = 'segmenter' if kind == 'masks' else kind
        text = (configs / f'{name}.py').read_text()
        config = tmp_path / f'{name}.py'
        config.write_text(text.replace(str(shapes), str(tmp_path / 'shapes')))
        return config, tmp_path / 'shapes' / FILES[kind]

    return prepare


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    'kind, spoil',
    [
        ('detector', truncate),
        ('detector', make_folder),
        ('detector', lambda path: path.write_bytes(b'')),
        ('detector', lambda path: path.write_bytes(b'<html>404 Not Found</html>')),
        ('segmenter', truncate),
        ('masks', truncate),
        ('masks', lambda path: path.write_bytes(bytes(1000))),
        ('classifier', truncate),
    ],
)
def test_file_that_cannot_be_read(message, train, spoilt_data, kind, spoil):
    config, path = spoilt_data(kind)
    spoil(path)
    assert str(path) in message(train, config, *IN_ORDER)


def mask_of(shape, value=0):
    mask = np.zeros(shape, np.uint8)
    mask.flat[0] = value
    return mask


@pytest.mark.parametrize(
    'mask, expected',
    [
        (mask_of((32, 64)), r'\(32, 64\)'),
        (mask_of((64, 64, 3)), r'\(64, 64, 3\)'),
        (mask_of((64, 64), 6), r'\(5\) where 5 classes'),
    ],
)
def test_mask_that_does_not_fit(message, train, spoilt_data, mask, expected):
    """Training would take one of another size, and crash on unknown classes."""
    config, path = spoilt_data('masks')
    Image.fromarray(mask).save(path)
    text = message(train, config, *IN_ORDER)
    assert str(path) in text and re.search(expected, text)


@pytest.mark.parametrize('kind', ['detector', 'masks'])
def test_missing_file(message, train, spoilt_data, kind):
    config, path = spoilt_data(kind)
    path.unlink()
    assert str(path) in message(train, config)


def test_truncated_image_in_a_worker(spoilt_data, tmp_path):
    """The tool in a process of its own, whose worker loads the image."""
    config, path = spoilt_data('classifier')
    truncate(path)
    tool = [sys.executable, REPO / 'tools/train.py', config]
    option = 'train_dataloader.num_workers=1'
    done = subprocess.run(
        [*tool, '--work-dir', tmp_path / 'work', '--cfg-options', option],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(REPO)),
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    assert str(path) in done.stderr
