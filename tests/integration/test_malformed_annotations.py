"""Spoilt annotations and images: one message, or what the toolbox does."""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from ra_mm.cli import report_user_errors
from ra_mm.engine.samples import name_samples
from ra_mm.preflight import check

nan, inf = math.nan, math.inf
REPO = Path(__file__).parents[2]
ABSENT = ...
# What no id, no name, no size may be
ID = [ABSENT, None, nan, inf, -1, 2.5, True, [], [1], {}]
TEXT = [ABSENT, None, nan, 5, True, [], ['a'], {}]
SIZE = [ABSENT, None, nan, inf, -1, 0, '64', True, [64], {}]

# The first entry of each part is spoilt.
FIELDS = {
    'images.id': ID,
    'images.file_name': TEXT,
    'images.width': SIZE,
    'images.height': SIZE,
    'categories.id': ID,
    'categories.name': TEXT,
    'annotations.id': ID,
    'annotations.image_id': ID,
    'annotations.category_id': ID,
    'annotations.area': [ABSENT, None, nan, inf, '64', True, [], {}],
    'annotations.iscrowd': [None, 'no', -1, 2, 0.5, nan, [], {}],
    'annotations.bbox': [
        ABSENT,
        None,
        nan,
        5,
        'abc',
        '1234',
        True,
        [],
        {},
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, None],
        ['1', '2', '3', '4'],
        [[1, 2, 3, 4]],
        [1, 2, nan, 4],
        [1, 2, inf, 4],
        [-inf, 2, 3, 4],
        [True, 2, 3, 4],
        {'x': 1, 'y': 2, 'w': 3, 'h': 4},
    ],
}
FIELDS = [(field, value) for field, values in FIELDS.items() for value in values]

NO_SEGMENTATION = [ABSENT, None, [], {}, 0, '']
SEGMENTATION = [
    'abc',
    5,
    -1,
    nan,
    True,
    ['a'],
    [1, 2, 3, 4, 5, 6],
    [None],
    [['a', 'b', 'c', 'd', 'e', 'f']],
    [[nan] * 6],
    [[1, 2, 3, inf, 5, 6]],
    [[[1, 2], [3, 4], [5, 6]]],
    {'counts': [4096]},
    {'size': [64, 64]},
    {'counts': [1, 2, 3], 'size': [64, 64]},
    {'counts': [4096], 'size': [64]},
    {'counts': [-1, 4097], 'size': [64, 64]},
    {'counts': None, 'size': [64, 64]},
    {'counts': 'abc', 'size': ['64', '64']},
]

# Instead of the whole file, as JSON; and instead of one of its lists
WHOLE = [None, 5, 'abc', True, [], [1], {}, {'images': []}]
LISTS = [
    (part, value)
    for part in ('images', 'categories', 'annotations')
    for value in (None, 5, 'abc', True, {}, [1], [None], ['a'], [[]], [{}])
]
BYTES = [
    b'',
    b'\0' * 64,
    b'{',
    b'[' * 10**5,
    b'{"images": [',
    b'\xff\xfe\x00a',
    b'\x89PNG\r\n',
    b"{'images': []}",
    b'{"images": [1,]}',
]


def double(part, **changes):
    return lambda coco: coco[part].append({**coco[part][0], **changes})


def every(part, **changes):
    return lambda coco: [entry.update(changes) for entry in coco[part]]


CONTENTS = [
    ('no images', lambda c: c.update(images=[]), 'lists no images'),
    ('no objects', lambda c: c.update(annotations=[]), 'no annotations to train on'),
    (
        'no categories',
        lambda c: c.update(categories=[]),
        'unknown categories: category_id (1, 2, 3, 4)',
    ),
    ('one image twice', double('images'), '2 entries of images have the id 1'),
    (
        'one category twice',
        double('categories'),
        '2 entries of categories have the id 1',
    ),
    (
        'one object twice',
        double('annotations'),
        '2 entries of annotations have the id 1',
    ),
    ('one name twice', double('categories', id=77), 'classes in that order'),
    (
        'unknown category',
        double('annotations', id=777, category_id=9),
        '1 annotations are of unknown categories: category_id (9)',
    ),
    ('all of no area', every('annotations', area=0), 'no annotations to train on'),
    (
        'all outside',
        every('annotations', bbox=[99, 99, 9, 9]),
        'no annotations to train on',
    ),
    ('all flat', every('annotations', bbox=[9, 9, 9, 0]), 'no annotations to train on'),
    ('all of a crowd', every('annotations', iscrowd=1), 'no annotations to train on'),
    (
        'all of another image',
        every('annotations', image_id=999),
        'no annotations to train on',
    ),
    ('all names the same', every('categories', name='star'), 'with unknown categories'),
    ('no file', every('images', file_name='none.jpg'), '16 of 16 files are missing'),
]

# mmdet trains without the first object and says nothing; the tool does.
LEFT_OUT = [
    ('bbox', [1, 2, 0, 5], 'without area'),
    ('bbox', [1, 2, 5, 0], 'without area'),
    ('bbox', [1, 2, 0.5, 5], 'less than a pixel'),
    ('bbox', [1, 2, -5, 5], 'without area'),
    ('bbox', [-9, 2, 5, 5], 'outside their images'),
    ('bbox', [64, 2, 5, 5], 'outside their images'),
    ('bbox', [2, -9, 5, 5], 'outside their images'),
    ('bbox', [2, 1e9, 5, 5], 'outside their images'),
    ('area', 0, 'without area'),
    ('area', -1, 'without area'),
    ('image_id', 999, 'images that the file does not list'),
    ('image_id', '1', 'images that the file does not list'),
]
# and these it takes as they are, within the picture
TAKEN = [
    ('bbox', [-9, -9, 99, 99], [0, 0, 64, 64]),
    ('bbox', [60, 50, 99, 5], [60, 50, 64, 55]),
    ('bbox', [-9, 5, 1e9, 5], [0, 5, 64, 10]),
]


@pytest.fixture(scope='module')
def original(shapes):
    return json.loads((shapes / 'annotations/train.json').read_text())


@pytest.fixture
def coco(original):
    return copy.deepcopy(original)


@pytest.fixture(scope='module')
def whole_config(configs):
    cfg = Config.fromfile(configs / 'detector.py')
    cfg.merge_from_dict(dict(launcher='none', work_dir='unused'))
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(64, 64)),
        dict(type='PackDetInputs'),
    ]
    return cfg


@pytest.fixture
def looked_at(whole_config, tmp_path):
    """Let the preflight look at a file, as the training data; the config."""

    def look(content, with_mask=False):
        path = tmp_path / 'spoilt.json'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content))
        cfg = copy.deepcopy(whole_config)
        dataset = cfg.train_dataloader.dataset
        dataset.ann_file = str(path)
        dataset.pipeline[1].with_mask = with_mask
        with report_user_errors('tools/train.py'):
            check(cfg, 'train')
        return cfg

    return look


def shown(case):
    return '-'.join('absent' if v is ABSENT else str(v)[:30] for v in case)


@pytest.mark.parametrize('field, value', FIELDS, ids=map(shown, FIELDS))
def test_field(message, looked_at, coco, field, value):
    part, key = field.split('.')
    if value is ABSENT:
        del coco[part][0][key]
    else:
        coco[part][0][key] = value
    text = message(looked_at, coco)
    assert f'spoilt.json: an entry of {part} has ' in text
    assert (
        f'no {key!r}: ' if value is ABSENT else f'{key}={value!r}, expected is '
    ) in text
    assert '\n' not in text.strip()


@pytest.mark.parametrize(
    'value', NO_SEGMENTATION + SEGMENTATION, ids=lambda v: shown([v])
)
def test_segmentation(message, looked_at, coco, value):
    coco['annotations'][0]['segmentation'] = value
    if value is ABSENT:
        del coco['annotations'][0]['segmentation']
    none = any(value is v for v in NO_SEGMENTATION)
    assert (
        '1 of 48 annotations have no segmentation'
        if none
        else '1 annotations have a segmentation that is neither'
    ) in message(looked_at, coco, True)
    looked_at(coco)  # boxes alone need none


@pytest.mark.parametrize('value', WHOLE, ids=str)
def test_whole_file(message, looked_at, value):
    assert 'is no COCO annotation file: it has no ' in message(looked_at, value)


@pytest.mark.parametrize('part, value', LISTS, ids=map(shown, LISTS))
def test_list(message, looked_at, coco, part, value):
    coco[part] = value
    assert (
        f'an entry of {part} has no '
        if isinstance(value, list)
        else f'it has no {part}'
    ) in message(looked_at, coco)


@pytest.mark.parametrize('content', BYTES, ids=lambda b: str(b)[:20])
def test_no_json(message, looked_at, content):
    assert 'spoilt.json is no JSON file: ' in message(looked_at, content)


@pytest.mark.parametrize(
    '_, spoil, expected', CONTENTS, ids=[name for name, *_ in CONTENTS]
)
def test_content(message, looked_at, coco, _, spoil, expected):
    spoil(coco)
    assert expected in message(looked_at, coco)


def test_truncated_at_every_length(message, looked_at, original):
    whole = json.dumps(original).encode()
    for length in range(0, len(whole), len(whole) // 20):
        assert 'is no JSON file' in message(looked_at, whole[:length])


def load(cfg, part='train'):
    """The samples, loaded as a runner does it."""
    runner = SimpleNamespace(build_dataloader=Runner.build_dataloader)
    name_samples(runner)
    scope = DefaultScope.overwrite_default_scope(cfg.default_scope)
    with report_user_errors('tools/train.py'), scope:
        loader = copy.deepcopy(cfg[f'{part}_dataloader'])
        loader.sampler = dict(type='DefaultSampler', shuffle=False)
        loader = runner.build_dataloader(loader)
        return [sample for batch in loader for sample in batch['data_samples']]


def boxes_of(samples):
    return torch.cat([s.gt_instances.bboxes.tensor for s in samples])


@pytest.fixture
def alone(coco):
    """The first annotation is the only one of its image."""
    first = coco['annotations'][0]
    for annotation in coco['annotations'][1:]:
        if annotation['image_id'] == first['image_id']:
            annotation['image_id'] = coco['images'][1]['id']
    return coco


def test_nothing_is_wrong_with_the_data_above(looked_at, alone, capsys):
    samples = load(looked_at(alone))
    assert (len(samples), len(boxes_of(samples))) == (16, 48)
    assert 'left out' not in capsys.readouterr().err


@pytest.mark.parametrize(
    'key, value, warning', LEFT_OUT, ids=[f'{k}-{v}' for k, v, _ in LEFT_OUT]
)
def test_left_out(looked_at, alone, capsys, key, value, warning):
    alone['annotations'][0][key] = value
    cfg = looked_at(alone)
    printed = capsys.readouterr().err
    assert 'spoilt.json: 1 annotations are left out' in printed
    assert warning in printed
    samples = load(cfg)
    assert len(boxes_of(samples)) == 47
    if key != 'image_id':  # its image stays, as background
        assert len(samples) == 16 and not len(samples[0].gt_instances)


@pytest.mark.parametrize('key, value, box', TAKEN, ids=[f'{v}' for _, v, _ in TAKEN])
def test_taken(looked_at, alone, capsys, key, value, box):
    alone['annotations'][0][key] = value
    samples = load(looked_at(alone))
    assert 'left out' not in capsys.readouterr().err
    assert len(boxes_of(samples)) == 48
    boxes = samples[0].gt_instances.bboxes
    boxes.clip_((64, 64))
    assert boxes.tensor.tolist() == [box]


# Images and masks


def cut(share):
    return lambda path: path.write_bytes(
        path.read_bytes()[: int(share * path.stat().st_size)]
    )


def write(content):
    return lambda path: path.write_bytes(content)


def as_folder(path):
    path.unlink()
    path.mkdir()


BROKEN = [
    ('cut at 0', cut(0)),
    ('cut at 1 %', cut(0.01)),
    ('cut at 10 %', cut(0.1)),
    ('cut at 50 %', cut(0.5)),
    ('cut at 90 %', cut(0.9)),
    ('text', write(b'no image')),
    ('zeros', write(bytes(1000))),
    ('a page', write(b'<html>404 Not Found</html>')),
]
KINDS = dict(
    detector='images/train/000003.jpg',
    segmenter='images/train/000003.jpg',
    masks='masks/train/000003.png',
    classifier='classes/train/star/0001.jpg',
)
BROKEN = [(kind, name, spoil) for kind in KINDS for name, spoil in BROKEN]
BROKEN += [('detector', 'folder', as_folder), ('masks', 'folder', as_folder)]


@pytest.fixture
def spoilt_data(configs, shapes, tmp_path):
    """A config whose data are a copy, and the path of one of its files."""

    def prepare(kind):
        shutil.copytree(shapes, tmp_path / 'shapes')
        name = 'segmenter' if kind == 'masks' else kind
        text = (configs / f'{name}.py').read_text()
        config = tmp_path / f'{name}.py'
        config.write_text(text.replace(str(shapes), str(tmp_path / 'shapes')))
        return config, tmp_path / 'shapes' / KINDS[kind]

    return prepare


@pytest.mark.parametrize(
    'kind, _, spoil', BROKEN, ids=[f'{k}-{n}' for k, n, _ in BROKEN]
)
def test_image(message, spoilt_data, kind, _, spoil):
    config, path = spoilt_data(kind)
    spoil(path)
    cfg = Config.fromfile(config)
    if kind == 'classifier':
        cfg.train_dataloader.collate_fn = dict(type='default_collate')
    text = message(load, cfg)
    assert str(path) in text
    assert ' cannot be loaded: ' in text
    assert '\n' not in text.strip()


def values(*shape, **at):
    mask = np.zeros(shape, np.uint8)
    for value, n in at.items():
        mask.flat[:n] = int(value[1:])
    return mask


MASKS = [
    ('half as high', values(32, 64), r'shape \(32, 64\), the image of '),
    ('wider', values(64, 70), r'shape \(64, 70\), the image of '),
    ('in colours', values(64, 64, 3), r'shape \(64, 64, 3\), the image of '),
    ('one class more', values(64, 64, v6=1), r'values \(5\) where 5 classes'),
    ('grey levels', values(64, 64, v200=9, v100=3), r'values \(99, 199\) '),
]


@pytest.mark.parametrize('_, mask, expected', MASKS, ids=[m[0] for m in MASKS])
def test_mask(message, spoilt_data, _, mask, expected):
    """Of another size training would take it, of other classes crash."""
    config, path = spoilt_data('masks')
    Image.fromarray(mask).save(path)
    text = message(load, Config.fromfile(config))
    assert f'its mask {path} cannot be loaded: the mask ' in text
    assert re.search(expected, text)


@pytest.mark.parametrize('kind', ['detector', 'masks', 'classifier'])
def test_missing_image(message, spoilt_data, kind):
    config, path = spoilt_data(kind)
    cfg = Config.fromfile(config)
    cfg.launcher = 'none'
    if kind == 'classifier':
        shutil.rmtree(path.parent)
    else:
        path.unlink()

    def look():
        with report_user_errors('tools/train.py'):
            check(cfg, 'train')

    assert (
        'the datasets differ in their classes'
        if kind == 'classifier'
        else f'the first is {path}'
    ) in message(look)


@pytest.mark.parametrize('workers', [0, 1])
def test_truncated_image_in_training(spoilt_data, tmp_path, workers):
    """The real tool, in a process of its own, and its workers."""
    config, path = spoilt_data('classifier')
    cut(0.5)(path)
    done = subprocess.run(
        [
            sys.executable,
            REPO / 'tools/train.py',
            config,
            '--work-dir',
            tmp_path / 'work',
            '--cfg-options',
            f'train_dataloader.num_workers={workers}',
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    assert f'{path} or its annotations cannot be loaded' in done.stderr


CASES = [
    FIELDS,
    NO_SEGMENTATION,
    SEGMENTATION,
    WHOLE,
    LISTS,
    BYTES,
    CONTENTS,
    LEFT_OUT,
    TAKEN,
    BROKEN,
    MASKS,
]
