"""Read COCO annotation files into arrays."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from ra_mm.errors import UserError

BAD_POLYGON = 'a polygon of less than three points, or with half a point'


@dataclass
class CocoFile:
    """What the checks need of an annotation file; lists have an item an annotation."""

    path: str
    file_names: dict  # by image id
    image_sizes: np.ndarray  # (number of images, 2): width and height
    categories: dict  # names by category id
    ids: list
    category_of: list  # category ids
    image_of: np.ndarray  # index of the image, -1 if it is not listed
    boxes: np.ndarray  # (N, 4): x, y, width, height
    areas: np.ndarray
    is_taken: np.ndarray  # whether mmdet takes it, if it has its category
    is_counted: np.ndarray  # whether it is neither a crowd nor ignored
    mask_faults: list  # see describe_mask, '' for ignored annotations too
    has_crowd_flag: np.ndarray


def read_coco(path: str) -> CocoFile:
    """Read an annotation file.

    Raises:
        UserError: If it is not JSON, or an entry lacks a field that mmdet needs.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError is a ValueError
        raise UserError(f'{path} is not a JSON file: {e}') from e
    try:
        images, categories = content['images'], content['categories']
        annotations = content.get('annotations', [])  # COCO's test-dev has none
        tables = [_unique_ids(path, t) for t in (images, categories, annotations)]
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f'{path} is not a COCO annotation file: expected lists of images, '
            'categories and annotations, whose entries have an id'
        ) from e
    if not images:
        raise UserError(f'{path} lists no images')
    image_ids, category_ids, ids = tables
    images_of = _references(path, annotations, 'image_id', image_ids)
    index = {id: i for i, id in enumerate(image_ids)}
    image_of = np.array([index.get(id, -1) for id in images_of], dtype=int)
    sizes = np.hstack([_numbers(path, images, key, 1) for key in ('width', 'height')])
    corner, size = np.split(_numbers(path, annotations, 'bbox', 4), [2], 1)
    areas = _numbers(path, annotations, 'area', 1)[:, 0]
    for key in ('iscrowd', 'ignore'):
        _numbers(path, [a for a in annotations if key in a], key, 1)
    # As in mmdet's CocoDataset.parse_data_info.
    ends = np.minimum(corner + size, sizes[image_of])
    taken = ((ends > np.maximum(corner, 0)) & (size >= 1)).all(1)
    taken &= (image_of >= 0) & (areas > 0)
    return CocoFile(
        path=path,
        file_names=dict(zip(image_ids, _column(path, images, 'file_name', str.strip))),
        image_sizes=sizes,
        categories=dict(
            zip(category_ids, _column(path, categories, 'name', str.strip))
        ),
        ids=ids,
        category_of=_references(path, annotations, 'category_id', category_ids),
        image_of=image_of,
        boxes=np.hstack([corner, size]),
        areas=areas,
        is_taken=taken,
        is_counted=_flags(
            not (a.get('iscrowd') or a.get('ignore')) for a in annotations
        ),
        mask_faults=[
            '' if a.get('ignore') else describe_mask(a.get('segmentation'))
            for a in annotations
        ],
        has_crowd_flag=_flags('iscrowd' in a for a in annotations),
    )


def _flags(values):
    return np.array([bool(value) for value in values], dtype=bool)


def _unique_ids(path, entries):
    ids = [entry['id'] for entry in entries]
    if len(set(ids)) < len(ids):
        id, n = Counter(ids).most_common(1)[0]
        raise UserError(f'{path}: {n} entries of the same list have the id {id}')
    return ids


def describe_mask(segmentation: Any) -> str:
    """Say why a segmentation is no mask; '' if it is one.

    COCOeval fails for all of these but odd numbers, which it reads as another shape.
    """
    if not segmentation:
        return 'no segmentation'
    if isinstance(segmentation, dict):  # run lengths
        return ''
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return 'a segmentation that is no list of polygons ([[x1, y1, x2, y2, ...]])'
    lengths = [len(polygon) for polygon in segmentation]
    if lengths[0] < 6 or any(n % 2 for n in lengths):
        return BAD_POLYGON
    return ''


def _references(path, entries, key, ids):
    """Return the ids of a key, which must be text or numbers as those of its table."""
    values = _column(path, entries, key, hash, 'an id')
    texts = [v for v in (*values, *ids) if isinstance(v, str)]
    if texts and len(texts) < len(values) + len(ids):
        raise UserError(
            f'{path}: some {key} or the ids that they refer to are text, such as '
            f'{texts[0]!r}, and others are not: write all of them as numbers'
        )
    return values


def _column(path, entries, key, convert, expected='a text'):
    """Return the values of a key; an error shows the first entry without a valid one.

    Args:
        convert: It raises a TypeError or a ValueError for a value that is not valid.
    """
    for entry in entries:
        try:
            convert(entry[key])
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(
                f'{path}: an entry has no valid {key}, expected {expected}: '
                f'{str(entry)[:100]}'
            ) from e
    return [entry[key] for entry in entries]


def _numbers(path, entries, key, count):
    """Return an array with this many finite numbers for each entry."""
    try:
        return _to_numbers([entry[key] for entry in entries], count)
    except (KeyError, TypeError, ValueError):
        expected = f'{count} finite number(s), not text'
        _column(path, entries, key, lambda v: _to_numbers([v], count), expected)
        raise


def _to_numbers(values, count):
    array = np.array(values).reshape(len(values), count)
    if array.dtype.kind not in 'biuf' or not np.isfinite(array).all():
        raise ValueError('not a finite number')
    return array.astype(float)


def is_coco(dataset: BaseDataset) -> bool:
    """Whether a dataset is read as mmdet reads COCO, unlike LVIS or panoptic ones."""
    if not hasattr(dataset, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoDataset

    return type(dataset).load_data_list is CocoDataset.load_data_list
