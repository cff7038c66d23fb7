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


@dataclass
class CocoFile:
    """What the checks need of an annotation file."""

    file_names: dict  # by image id
    categories: dict  # names by category id
    category_counts: Counter  # number of annotations by category id
    left_out: list  # ids of annotations that mmdet leaves out
    is_trainable: bool  # whether any annotation is left to train on
    num_without_mask: int
    num_without_crowd: int  # annotations without iscrowd
    image_sizes: np.ndarray  # (number of images, 2): width and height
    image_of: np.ndarray  # the index of the image of each annotation, -1 if unlisted
    category_of: list  # the category id of each annotation
    boxes: np.ndarray  # (number of annotations, 4), as in the file
    is_taken: np.ndarray  # whether mmdet takes each annotation, if it has its category
    is_counted: np.ndarray  # whether each annotation is neither crowd nor ignored


def read_coco(path: str) -> CocoFile:
    """Read an annotation file.

    Raises:
        UserError: If it is not JSON, or an entry lacks a field that mmdet needs.
    """
    try:
        content = _parse(path)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError is a ValueError
        raise UserError(f'{path} is not a JSON file: {e}') from e
    try:
        images, categories = content['images'], content['categories']
        annotations = content.get('annotations', [])  # COCO's test-dev has none
        tables = [_ids(path, table) for table in (images, categories, annotations)]
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f'{path} is not a COCO annotation file: expected lists of images, '
            'categories and annotations, whose entries have an id'
        ) from e
    if not images:
        raise UserError(f'{path} lists no images')
    image_ids, category_ids, ids = tables
    index = {id: i for i, id in enumerate(image_ids)}
    of_images = _column(path, annotations, 'image_id', 'id')
    image = np.array([index.get(id, -1) for id in of_images], dtype=int)
    sizes = [_column(path, images, key, 1) for key in ('width', 'height')]
    corner, size = np.split(_column(path, annotations, 'bbox', 4), [2], 1)
    ends = np.minimum(corner + size, np.hstack(sizes)[image])
    # As in mmdet's CocoDataset.parse_data_info.
    taken = ((ends > np.maximum(corner, 0)) & (size >= 1)).all(1)
    taken &= (image >= 0) & (_column(path, annotations, 'area', 1)[:, 0] > 0)
    counted = np.array(
        [not (a.get('iscrowd') or a.get('ignore')) for a in annotations], dtype=bool
    )
    category_of = _column(path, annotations, 'category_id', 'id')
    return CocoFile(
        file_names=dict(zip(image_ids, _column(path, images, 'file_name', str))),
        categories=dict(zip(category_ids, _column(path, categories, 'name', str))),
        category_counts=Counter(category_of),
        left_out=[ids[i] for i in np.flatnonzero(~taken)],
        is_trainable=bool((taken & counted).any()),
        num_without_mask=sum(
            not (a.get('segmentation') or a.get('ignore')) for a in annotations
        ),
        num_without_crowd=sum('iscrowd' not in a for a in annotations),
        image_sizes=np.hstack(sizes),
        image_of=image,
        category_of=category_of,
        boxes=np.hstack([corner, size]),
        is_taken=taken,
        is_counted=counted,
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


def _ids(path, entries):
    ids = [entry['id'] for entry in entries]
    if len(set(ids)) < len(ids):
        id, n = Counter(ids).most_common(1)[0]
        raise UserError(f'{path}: {n} entries of the same list have the id {id}')
    return ids


def _column(path, entries, key, kind):
    """Convert the values of a key, or raise an error that shows the first bad entry."""
    try:
        return _convert([entry[key] for entry in entries], kind)
    except (KeyError, TypeError, ValueError) as e:
        for entry in entries if len(entries) > 1 else ():
            _column(path, [entry], key, kind)
        raise UserError(
            f'{path}: an entry has no valid {key}: {str(entries[0])[:100]}'
        ) from e


def _convert(values, kind):
    """Check strings or ids, or make an array with this many numbers per entry."""
    if kind is str:
        ''.join(values)
    elif kind == 'id':
        set(values)  # fails for a list or a dict
    else:
        values = np.array(values, dtype=float).reshape(len(values), kind)
        if not np.isfinite(values).all():
            raise ValueError
    return values


def is_coco(dataset) -> bool:
    """Whether a dataset is read as mmdet reads COCO, unlike LVIS or panoptic ones."""
    if not hasattr(dataset, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoDataset

    return type(dataset).load_data_list is CocoDataset.load_data_list


def check_coco(dataset, key: str, coco: CocoFile, warnings: list[str]) -> Iterator[str]:
    """Yield problems of the classes of an annotation file; append to ``warnings``."""
    path, names, counts = dataset.ann_file, coco.categories, coco.category_counts
    classes = list(dataset.metainfo['classes'])
    unknown = [id for id in counts if id not in names]
    if unknown:
        yield (
            f'{path}: {sum(counts[id] for id in unknown)} annotations have a '
            f'category_id {shorten(unknown)} that its categories {shorten(names)} lack'
        )
    others = [id for id in counts if id in names and names[id] not in classes]
    if others:
        warnings.append(
            f'{path}: {sum(counts[id] for id in others)} annotations are left out: '
            f'{key}.metainfo.classes lacks {shorten(names[id] for id in others)}'
        )
    # mmdet numbers classes in the file's order.
    if [name for name in names.values() if name in classes] != classes:
        yield (
            f'{path} has the classes {shorten(names.values())}, but '
            f'{key}.metainfo.classes is {shorten(classes)}: make them the same, in the '
            "file's order, and num_classes their number"
        )


def check_training_data(
    path: str, coco: CocoFile, with_mask: bool, warnings: list[str]
) -> Iterator[str]:
    """Yield what a file lacks for training; append what is left out to ``warnings``."""
    if coco.left_out:
        warnings.append(
            f'{path}: {len(coco.left_out)} annotations are left out, because their '
            'image is not listed, or their box is outside of it, less than a pixel '
            f'wide or high, or without area: {shorten(coco.left_out)}'
        )
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
        file = dataset.ann_file
        same_part = name.split('_')[0] == key.split('_')[0]
        if not (same_part and is_coco(dataset) and osp.isfile(file)):
            continue
        if osp.samefile(path, file):
            continue
        # Ids alone do not tell images apart, as many files start at 1.
        known, own = (
            {(id, osp.basename(f)) for id, f in coco.file_names.items()}
            if coco
            else set()
            for coco in (read(path), read(file))
        )
        if known and not own <= known:
            yield (
                f'{key} is {path}, which lacks images of {name}.ann_file, {file}: '
                'give both the same file'
            )
