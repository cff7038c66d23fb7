"""Read COCO annotation files into arrays."""

import json
import math
from collections import Counter
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ra_mm.engine.config import reads_as
from ra_mm.errors import UserError, translate_errors

BAD_RLE = "an RLE that is not of its image's [height, width]"
BAD_POLYGON = 'a polygon of less than three points, or with half a point'


class CocoFile:
    """What the checks need of an annotation file.

    Args:
        path: The file.

    Attributes:
        file_names: By image id.
        image_sizes: (number of images, 2), width and height.
        categories: Names by category id.
        ids: Of the annotations, as in all that follow.
        category_of: Category ids.
        image_of: Indices of images, -1 for those that are not listed.
        boxes: (N, 4), x, y, width, height.
        areas: (N,).
        is_taken: Whether mmdet takes an annotation, if it has its category.
        is_ignored: Whether it is ignored, but no crowd.
        is_counted: Whether it is neither a crowd nor ignored.
        mask_faults: See :func:`describe_mask`; '' for ignored annotations.
        polygon_boxes: (N, 4), around the polygons, or the boxes of those that have none.
        has_crowd_flag: Whether it has an ``iscrowd``.

    Raises:
        UserError: If it is not JSON, or an entry lacks a field that mmdet needs.
    """

    def __init__(self, path: str) -> None:
        images, categories, annotations = _read_lists(path)
        column = partial(_column, path)
        self.path = path
        image_ids = _unique_ids(path, images)
        self.file_names = dict(zip(image_ids, column(images, 'file_name', _texts)))
        sizes = [column(images, key, _numbers, 1) for key in ('width', 'height')]
        self.image_sizes = np.hstack(sizes)
        category_ids = _unique_ids(path, categories)
        self.categories = dict(zip(category_ids, column(categories, 'name', _texts)))

        self.ids = _unique_ids(path, annotations)
        self.category_of = column(annotations, 'category_id', _ids, category_ids)
        images_of = column(annotations, 'image_id', _ids, image_ids)
        index = {id: i for i, id in enumerate(image_ids)}
        self.image_of = np.array([index.get(id, -1) for id in images_of], dtype=int)
        self.boxes = column(annotations, 'bbox', _numbers, 4)
        self.areas = column(annotations, 'area', _numbers, 1)[:, 0]
        for key in ('iscrowd', 'ignore'):
            column([a for a in annotations if key in a], key, _numbers, 1, 0)
        # As in mmdet's CocoDataset.parse_data_info.
        corner, size = self.boxes[:, :2], self.boxes[:, 2:]
        ends = np.minimum(corner + size, self.image_sizes[self.image_of])
        has_pixels = ((ends > np.maximum(corner, 0)) & (size >= 1)).all(1)
        self.is_taken = has_pixels & (self.image_of >= 0) & (self.areas > 0)
        flags = [[bool(a.get(k)) for k in ('iscrowd', 'ignore')] for a in annotations]
        is_crowd, is_ignored = np.array(flags, dtype=bool).reshape(-1, 2).T
        self.is_ignored = is_ignored & ~is_crowd
        self.is_counted = ~is_ignored & ~is_crowd
        self.has_crowd_flag = np.array(['iscrowd' in a for a in annotations], bool)
        sizes = self.image_sizes.astype(int).tolist()
        self.mask_faults = [
            '' if a.get('ignore') or i < 0 else describe_mask(a, *sizes[i])
            for a, i in zip(annotations, self.image_of)
        ]
        self.polygon_boxes = self.boxes.copy()
        for i in np.flatnonzero(self.is_counted & (self.image_of >= 0)):
            polygons = annotations[i].get('segmentation')
            if isinstance(polygons, list) and not self.mask_faults[i]:
                self.polygon_boxes[i] = _box_around(polygons)


def _read_lists(path):
    """Return the images, categories and annotations of a file, all of them with ids."""
    expected = 'lists of images, categories and annotations, whose entries have an id'
    with translate_errors(f'{path} is not a COCO annotation file, expected {expected}'):
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
        # COCO's test-dev has no annotations.
        lists = content['images'], content['categories'], content.get('annotations', [])
        hash(tuple(entry['id'] for entries in lists for entry in entries))
    if not lists[0]:
        raise UserError(f'{path} lists no images')
    return lists


def _unique_ids(path, entries):
    ids = [entry['id'] for entry in entries]
    if len(set(ids)) < len(ids):
        id, n = Counter(ids).most_common(1)[0]
        raise UserError(f'{path}: {n} entries of the same list have the id {id}')
    return ids


def describe_mask(annotation: dict, width: int, height: int) -> str:
    """Say why an annotation has no mask in an image of this size; '' if it has one.

    COCOeval fails or hangs for most of these, and reads the others as another shape.
    """
    segmentation = annotation.get('segmentation')
    if not segmentation:
        return 'no segmentation'
    if isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        pixels = sum(counts) if isinstance(counts, list) else width * height
        is_whole = segmentation.get('size') == [height, width] and counts
        return '' if is_whole and pixels == width * height else BAD_RLE
    if not all(isinstance(polygon, list) for polygon in segmentation):
        return 'a segmentation that is no list of polygons ([[x1, y1, x2, y2, ...]])'
    if any(isinstance(value, list) for polygon in segmentation for value in polygon):
        return 'a polygon of pairs, not numbers ([[x1, y1, x2, y2, ...]])'
    lengths = [len(polygon) for polygon in segmentation]
    if lengths[0] < 6 or any(n % 2 for n in lengths):
        return BAD_POLYGON
    values = [*chain(*segmentation)]
    if not {*map(type, values)} <= {int, float} or not math.isfinite(sum(values)):
        return 'a polygon with text, null or NaN'
    x, y, w, h = annotation['bbox']
    if max(values) <= 1 < min(x + w, y + h) - 1:
        return 'a polygon within 0 and 1, instead of pixels'
    return ''


def _box_around(polygons):
    x, y = ([v for polygon in polygons for v in polygon[i::2]] for i in (0, 1))
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def _column(path, entries, key, convert, *args):
    """Convert the values of a key; an error shows the first entry without a valid one.

    Args:
        convert: Takes a list of values and ``args``. It raises a KeyError, TypeError
            or ValueError if one of the values is not valid.
    """
    try:
        return convert([entry[key] for entry in entries], *args)
    except (KeyError, TypeError, ValueError) as e:
        if len(entries) == 1:
            text = f'{path}: an entry has no valid {key}, expected {EXPECTED[convert]}'
            raise UserError(f'{text}: {str(entries[0])[:100]}') from e
        for entry in entries:
            _column(path, [entry], key, convert, *args)
        raise


def _texts(values):
    ''.join(values)  # a TypeError for anything else
    return values


def _ids(values, table):
    hash(tuple(values))
    if len({isinstance(id, str) for id in (*values, *table)}) > 1:
        raise ValueError('text and numbers')
    return values


def _numbers(values, count, low=-math.inf):
    array = np.array(values)
    is_flat = array.dtype.kind in 'biuf' and array.shape[1:] in ((), (count,))
    if not is_flat or not np.isfinite(array).all() or (array < low).any():
        raise ValueError('not a finite number, or below the minimum')
    return array.reshape(len(values), count).astype(float)


EXPECTED = {
    _texts: 'text',
    _ids: 'a number, or text if the id that it refers to is text',
    _numbers: 'finite numbers (4 for bbox, else one; flags are 0 or 1), not text',
}


def is_coco(dataset: Any) -> bool:
    """Whether a dataset is read as mmdet reads COCO, unlike LVIS or panoptic ones."""
    return reads_as(dataset, 'mmdet.datasets.coco.CocoDataset.load_data_list')
