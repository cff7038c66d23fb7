"""Folders and lists of labels, against the names of the classes."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ra_mm.errors import UserError


def test_folders_in_the_order_of_numbers(tmp_path, make_folders, error):
    folders = make_folders(tmp_path, classes=('1', '2', '3', '10'))
    text = error(folders.build())
    assert '10 is 2' in text and '(1, 10, 2, 3)' in text


def test_list_whose_labels_contradict_the_folders(folders, error):
    list_file = folders.write_list()
    folders.classes = ('dog', 'cat', 'eel')
    assert 'cat is dog' in error(folders.build(ann_file=list_file))


@pytest.mark.parametrize('name', ['cat/new.gif', 'beside_the_folders.png'])
def test_images_that_are_left_out(folders, warning, name):
    Image.open(folders.root / 'cat/0.png').save(folders.root / name)
    assert f'1 with .{name.rpartition(".")[2]}' in warning(folders.build())


def test_class_without_images(folders, warning):
    list_file = folders.write_list()
    folders.classes = (*folders.classes, 'fox')
    assert 'nothing of (fox)' in warning(folders.build(ann_file=list_file))


@pytest.fixture
def multi_label(folders):
    """Settings of images with these lists of labels each."""

    def make(*labels):
        folders.build()
        names = [f'cat/{i % 4}.png' for i in range(len(labels))]
        content = dict(
            metainfo=dict(classes=folders.classes),
            data_list=[dict(img_path=a, gt_label=b) for a, b in zip(names, labels)],
        )
        (folders.root / 'multi.json').write_text(json.dumps(content))
        return folders.build(
            type='MultiLabelDataset', ann_file='multi.json', metainfo=None
        )

    return make


def test_multi_label(multi_label, look):
    assert look(multi_label([0, 1], [2], [])) == ([], [])


def test_multi_label_beyond_the_classes(multi_label, error):
    assert '(3)' in error(multi_label([0, 1], [2, 3]))


def test_one_hot_labels(multi_label, error):
    assert '[0, 1, 1]' in error(multi_label([1, 0, 0], [0, 1, 1]))


def test_names_as_labels(multi_label, look):
    with pytest.raises(UserError, match='train_dataloader.dataset has labels .*dog'):
        look(multi_label([0], ['dog']))


def test_multi_label_class_without_images(multi_label, warning):
    assert '(eel)' in warning(multi_label([0, 1], [1]))


def copy(source, target):
    shutil.copytree(source, target)
    write = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)
    Image.fromarray(write).save(target / 'cat/0.png')


@pytest.mark.parametrize('n, put', [(12, None), (12, os.symlink), (11, copy)])
def test_validation_with_images_of_the_training(folders, warning, tmp_path, n, put):
    val = folders.build()
    if put:
        put(folders.root, tmp_path / 'val')
        val['data_root'] = str(tmp_path / 'val')
    text = warning(folders.build(), val)
    assert text.startswith(f'val_dataloader.dataset: {n} of 12 images')


def test_folders_that_are_numbered_differently(
    folders, make_folders, tmp_path, warning
):
    train = folders.build(ann_file=folders.write_list(), metainfo=None)
    val = make_folders(tmp_path / 'val', classes=('ape', *folders.classes))
    others = val.build(ann_file=val.write_list(), metainfo=None)
    assert 'cat: 0 and 1' in warning(train, others)


def test_dark_images_of_16_bits(folders, error):
    for path in folders.root.glob('*/*'):
        grey = np.array(Image.open(path).convert('L')).astype(np.uint16) * 16
        Image.fromarray(grey).save(path)
    assert '16 bits' in error(folders.build())


def test_bright_images_of_16_bits(folders, look):
    for path in folders.root.glob('*/*'):
        grey = np.array(Image.open(path).convert('L')).astype(np.uint16) * 256
        Image.fromarray(grey).save(path)
    assert look(folders.build()) == ([], [])
