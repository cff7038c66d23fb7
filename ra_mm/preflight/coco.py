"""Reading COCO annotation files, with all that can be wrong in them."""

import json
import math
from collections import Counter

from ra_mm.validation import POSITIVE, STR, Rule, integer, list_of, number, one_of

_ID = integer(0) | STR
_BOX = Rule('[x, y, width, height] in pixels', list_of(number(), 4).test)
_KINDS = dict(
    images=dict(id=_ID, file_name=STR, width=POSITIVE, height=POSITIVE),
    categories=dict(id=_ID, name=STR),
    annotations=dict(id=_ID, image_id=_ID, category_id=_ID, bbox=_BOX, area=number()),
)
_CROWD = one_of(0, 1, False, True)


def read_coco(path: str) -> tuple[dict | None, str | None]:
    """The content of an annotation file, or what is wrong with it."""
    try:
        with open(path, encoding='utf-8') as f:
            coco = json.load(f)
    except (ValueError, RecursionError) as e:  # not JSON, or not even text
        return None, f'{path} is no JSON file: {e}'
    for part, kinds in _KINDS.items():
        if part == 'annotations' and isinstance(coco, dict) and part not in coco:
            continue  # such as COCO's test-dev
        entries = coco.get(part) if isinstance(coco, dict) else None
        if not isinstance(entries, list):
            return None, f'{path} is no COCO annotation file: it has no {part}'
        for entry in entries:
            problem = _entry(entry, kinds)
            if problem:
                return None, (
                    f'{path}: an entry of {part} has {problem}: {str(entry)[:100]}'
                )
        number_of = Counter(entry['id'] for entry in entries)
        for id, n in number_of.most_common(1):
            if n > 1:
                return None, f'{path}: {n} entries of {part} have the id {id}'
    return coco, None


def _entry(entry, kinds):
    for key, kind in kinds.items():
        if not isinstance(entry, dict) or key not in entry:
            return f'no {key!r}'
        if not kind.test(entry[key]):
            return f'{key}={entry[key]!r}, expected is {kind.words}'
    if not _CROWD.test(entry.get('iscrowd', 0)):
        return f'iscrowd={entry["iscrowd"]!r}, expected is {_CROWD.words}'
    return None


def is_left_out(annotation: dict, image: dict) -> bool:
    """Whether mmdet trains without this annotation of the image.

    It does where the box is less than a pixel wide or high or lies outside
    the image, and where the area is not positive.
    """
    x, y, w, h = annotation['bbox']
    return (
        annotation['area'] <= 0
        or w < 1
        or h < 1
        or min(x + w, image['width']) <= max(x, 0)
        or min(y + h, image['height']) <= max(y, 0)
    )


def is_segmentation(value) -> bool:
    """Whether these are polygons or run lengths, by their types."""
    if isinstance(value, dict):
        size, counts = value.get('size'), value.get('counts')
        return list_of(integer(1), 2).test(size) and (
            isinstance(counts, str)
            or list_of(integer(0)).test(counts)
            and sum(counts) == math.prod(size)
        )
    try:  # there may be millions of coordinates
        return isinstance(value, list) and all(
            isinstance(polygon, list) and math.isfinite(sum(polygon))
            for polygon in value
        )
    except TypeError:
        return False
