"""Checks of COCO annotation files, each read once and without its polygons."""

import gc
import json
import os.path as osp
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ra_mm.errors import UserError
from ra_mm.validation import shorten

KEY = b'"segmentation"'
# Polygons of numbers, which are most of a file. No string can contain this,
# since a quotation mark within a string is escaped.
POLYGONS = re.compile(KEY + rb'\s*:\s*\[\s*(?:\[[-+.\deE,\s]*\]\s*,?\s*)+\]')
EXPECTED = dict.fromkeys(('width', 'height'), 'a number > 0')
EXPECTED.update(
    bbox='four finite numbers', area='a finite number', file_name='a string'
)


@dataclass
class CocoFile:
    """What the checks need of an annotation file."""

    file_names: dict  # by image id
    categories: dict  # names by category id
    category_counts: Counter  # number of annotations by category id
    unlisted_images: list  # image ids of annotations
    left_out: list  # ids of annotations that mmdet leaves out
    is_trainable: bool  # whether any annotation is left to train on
    num_without_mask: int


def read_coco(path: str) -> CocoFile:
    """Read an annotation file.

    Raises:
        UserError: If it is not JSON, or an entry lacks a field that mmdet needs.
    """
    try:
        content = _parse(path)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError is a ValueError
        raise UserError(f'{path} is not a JSON file: {e}') from e
    if not isinstance(content, dict):
        raise UserError(f'{path} is not a COCO annotation file')
    content.setdefault('annotations', [])  # COCO's test-dev has none
    tables = [content.get(name) for name in ('images', 'categories', 'annotations')]
    if not all(isinstance(table, list) for table in tables):
        raise UserError(f'{path} lacks a list of images, categories or annotations')
    images, categories, annotations = tables
    if not images:
        raise UserError(f'{path} lists no images')
    image_ids, category_ids, ids = (
        _column(path, table, 'id', _ids) for table in tables
    )
    for values in (image_ids, category_ids, ids):
        if len(set(values)) < len(values):
            id, n = Counter(values).most_common(1)[0]
            raise UserError(f'{path}: {n} entries of the same list have the id {id}')

    index = {id: i for i, id in enumerate(image_ids)}
    sizes = [_column(path, images, key, _sizes) for key in ('width', 'height')]
    of_images = _column(path, annotations, 'image_id', _ids)
    image = np.array([index.get(id, -1) for id in of_images], dtype=int)
    listed = image >= 0
    corner, size = np.split(_column(path, annotations, 'bbox', _boxes), [2], 1)
    ends = np.minimum(corner + size, np.stack(sizes, 1)[image])
    # As in mmdet's CocoDataset.parse_data_info.
    taken = ((ends > np.maximum(corner, 0)) & (size >= 1)).all(1)
    taken &= _column(path, annotations, 'area', _numbers) > 0
    counted = [not (a.get('iscrowd') or a.get('ignore')) for a in annotations]
    file_names = _column(path, images, 'file_name', _strings)
    names = _column(path, categories, 'name', _strings)
    return CocoFile(
        file_names=dict(zip(image_ids, file_names)),
        categories=dict(zip(category_ids, names)),
        category_counts=Counter(_column(path, annotations, 'category_id', _ids)),
        unlisted_images=[of_images[i] for i in np.flatnonzero(~listed)],
        left_out=[ids[i] for i in np.flatnonzero(listed & ~taken)],
        is_trainable=bool((listed & taken & np.array(counted, dtype=bool)).any()),
        num_without_mask=sum(
            not (a.get('segmentation') or a.get('ignore')) for a in annotations
        ),
    )


def _parse(path):
    with open(path, 'rb') as file:
        text = b''.join(_without_polygons(file)).decode()
    enabled = gc.isenabled()
    gc.disable()  # its passes over a million new dicts would double the time
    try:
        return json.loads(text)
    finally:
        if enabled:
            gc.enable()


def _without_polygons(file, chunk_size=2**24):
    """Yield the bytes of a file with polygons as `[[]]`, the rest as it is."""
    rest = b''
    while chunk := file.read(chunk_size):
        rest += chunk
        end = rest.rfind(KEY)  # its polygons may go on in the next chunk
        if end < 0:
            end = max(len(rest) - len(KEY), 0)  # as may the key itself
        yield POLYGONS.sub(KEY + b': [[]]', rest[:end])
        rest = rest[end:]
    yield POLYGONS.sub(KEY + b': [[]]', rest)


def _column(path, entries, key, convert):
    """Convert the values of a key, or raise an error that shows the first bad entry."""
    try:
        return convert([entry[key] for entry in entries])
    except (KeyError, TypeError, ValueError) as e:
        for entry in entries if len(entries) > 1 else ():
            _column(path, [entry], key, convert)
        raise UserError(
            f'{path}: an entry has no valid {key}, expected '
            f'{EXPECTED.get(key, "a number or a string")}: {str(entries[0])[:100]}'
        ) from e


def _ids(values):
    set(values)  # fails for a list or a dict
    return values


def _strings(values):
    ''.join(values)
    return values


def _numbers(values, shape=()):
    array = np.array(values) if values else np.zeros((0, *shape))
    if array.dtype.kind not in 'iuf' or array.shape[1:] != shape:
        raise TypeError
    if not np.isfinite(array).all():
        raise ValueError
    return array


def _boxes(values):
    return _numbers(values, (4,))


def _sizes(values):
    if (_numbers(values) <= 0).any():
        raise ValueError
    return _numbers(values)


def is_coco(dataset) -> bool:
    """Whether a dataset is read as mmdet reads COCO, unlike LVIS or panoptic ones."""
    if not hasattr(dataset, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoDataset

    return type(dataset).load_data_list is CocoDataset.load_data_list


def check_coco(dataset, key: str, coco: CocoFile, warnings: list[str]) -> Iterator[str]:
    """Yield problems of the classes of an annotation file; append to ``warnings``."""
    path, names, counts = dataset.ann_file, coco.categories, coco.category_counts
    classes, option = list(dataset.metainfo['classes']), f'{key}.metainfo.classes'
    unknown = [id for id in counts if id not in names]
    if unknown:
        yield (
            f'{path}: {sum(counts[id] for id in unknown)} annotations have a '
            f'category_id {shorten(unknown)} that its categories {shorten(names)} lack'
        )
    others = [id for id in counts if id in names and names[id] not in classes]
    if others:
        warnings.append(
            f'{path}: {sum(counts[id] for id in others)} annotations are left out, as '
            f'{option} lacks their categories {shorten(names[id] for id in others)}'
        )
    both = f'the config has {shorten(classes)}, the file has {shorten(names.values())}'
    if set(classes) - set(names.values()):
        yield f'{path}: {both}; make {option} (and num_classes) fit the file'
    elif [name for name in names.values() if name in classes] != classes:
        yield (
            f"{path}: mmdet numbers classes in the file's order, but {both}; put "
            f'{option} in that order'
        )


def check_training_data(
    path: str, coco: CocoFile, with_mask: bool, warnings: list[str]
) -> Iterator[str]:
    """Yield what a file lacks for training; append what is left out to ``warnings``."""
    left_out = f'{path}: %d annotations are left out, %s: %s'
    for values, why in (
        (coco.unlisted_images, 'the file does not list their image_id'),
        (coco.left_out, 'less than a pixel wide or high, outside or without area'),
    ):
        if values:
            warnings.append(left_out % (len(values), why, shorten(values)))
    if not coco.is_trainable:
        yield f'{path} has no annotations to train on'
    elif with_mask and coco.num_without_mask:
        yield (
            f'{path}: {coco.num_without_mask} of {coco.category_counts.total()} '
            'annotations have no segmentation, which this model trains on'
        )


def check_evaluator(
    key: str, path: str, datasets: dict, read: Callable[[str], CocoFile | None]
) -> Iterator[str]:
    """Check that an evaluator's annotation file has the images of its dataset."""
    for name, dataset in datasets.items():
        same_part = name.split('_')[0] == key.split('_')[0]
        if not (same_part and is_coco(dataset) and osp.isfile(dataset.ann_file)):
            continue
        if osp.samefile(path, dataset.ann_file):
            continue
        known, own = read(path), read(dataset.ann_file)
        if known and own and not _images(own) <= _images(known):
            yield (
                f'{key} is {path}, which lacks images of {name}.ann_file, '
                f'{dataset.ann_file}: give both the same file'
            )


def _images(coco):
    # Ids alone do not tell images apart, as many files start at 1.
    return {(id, osp.basename(name)) for id, name in coco.file_names.items()}
