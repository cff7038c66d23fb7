"""Datasets that lack something."""

import json
import shutil

import pytest

from ra_mm.errors import UserError
from reproduction.plan import make_plan, select_rows
from reproduction.user_data import read_data_folder


def remove(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def rewrite(name, **parts):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))

    return change


@pytest.mark.parametrize(
    'change, expected',
    [
        (remove('annotations/val.json'), "the split 'val'"),
        (remove('annotations'), 'annotations/ .* train/<class>/'),
        (remove('images'), 'train.json: .*000000.jpg .*images/'),
        (rewrite('annotations/val.json', images=[]), 'val.json is not a COCO'),
        (
            rewrite('annotations/val.json', categories=[{'name': 'cat'}]),
            'circle, .*cat',
        ),
        (remove('classes/val'), "the split 'val'"),
        (remove('classes/val/star'), '--data .*star'),
        (
            remove(*(f'classes/val/{name}' for name in ('star', 'circle', 'square'))),
            'val has 1 class folder',
        ),
    ],
)
def test_mistake(shapes, tmp_path, change, expected):
    data = shutil.copytree(shapes, tmp_path / 'data')
    change(data)
    is_detection = (data / 'classes/val/star').is_dir()
    with pytest.raises(UserError, match=expected):
        read_data_folder(data if is_detection else data / 'classes')


def test_rows_that_the_data_is_not_for(shapes, tmp_path):
    def refuse(table, data, expected):
        with pytest.raises(UserError, match=expected):
            make_plan(select_rows([table]), 1, read_data_folder(data))

    refuse('table5', shapes, 'UperNet.*--data .* boxes')
    refuse('table2', shapes, '--data .* boxes, for Tables 4 and 5')
    refuse('beyond_coco', shapes / 'classes', '--data .* class folders, for Tables 2')
    data = shutil.copytree(shapes, tmp_path / 'data')
    path = data / 'annotations/val.json'
    annotations = json.loads(path.read_text())['annotations']
    for annotation in annotations:
        del annotation['segmentation']
    rewrite('annotations/val.json', annotations=annotations)(data)
    refuse('table4', data, 'Mask R-CNN .*--rows "Faster R-CNN"')
