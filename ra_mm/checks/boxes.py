"""Boxes: within their images, around their masks, and not lost on their way."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ra_mm.checks.coco import is_coco
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, warning
from ra_mm.checks.images import has_other_size
from ra_mm.checks.sample import Part, get_instances
from ra_mm.validation import shorten

MIN_BOXES = 8  # to tell the format of boxes from their values
MAX_OUTSIDE = 0.1  # fraction of boxes out of their image that the format explains

IGNORED_RLE = 'with an RLE, which poly2mask=False ignores'


def check_coco_boxes(context: Context) -> Iterator[Finding]:
    """Boxes of annotation files are x, y, width, height in pixels, once each."""
    for _, coco in context.all_coco:
        total, boxes = len(coco.ids), map(tuple, coco.boxes.tolist())
        places = zip(coco.image_of.tolist(), coco.category_of, boxes)
        beside = _overlaps(_corners(coco.boxes), _corners(coco.polygon_boxes)) < 0.5
        beside &= (coco.boxes != coco.polygon_boxes).any(1)  # the others have none
        for n, text in (
            (total - len({*places}), 'repeat another one, with its image, category and '
             'box; remove them'),
            (beside.sum(), 'have a box that is not around their polygons; correct them'),
        ):  # fmt: skip
            if n > 0.01 * total:
                yield warning(f'{coco.path}: {n} of {total} annotations {text}')
        listed = coco.image_of >= 0
        images = coco.image_of[listed]
        names = np.array([*coco.file_names.values()], dtype=object)[images]
        sizes = coco.image_sizes[images]
        yield from _judge(coco.path, coco.boxes[listed], sizes, names)


def check_loaded_boxes(part: Part) -> Iterator[Finding]:
    """Boxes of other datasets lie inside their image, as it is loaded."""
    if is_coco(part.dataset):  # whose file has more of them
        return
    found = [
        (np.hstack([box[:2], box[2:] - box[:2]]), sample.size, sample.path)
        for sample in part.loaded
        # Another size is a fault of its own.
        if sample.boxes is not None and sample.size and not has_other_size(sample)
        for box in sample.boxes
        if len(box) == 4
    ]
    if found:
        boxes, sizes, names = zip(*found)
        yield from _judge('loaded boxes', np.array(boxes), np.array(sizes), names)


def _judge(source, boxes, sizes, names):
    """Judge boxes by the sizes of their images.

    Args:
        source: Where they come from, to begin a message with.
        boxes: x, y, width, height as they should be, (N, 4).
        sizes: Width and height of their images, (N, 2).
        names: Of their images.
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    if len(boxes) >= MIN_BOXES and (boxes <= 1).all():
        text = f'{source}: all boxes are within 0 and 1, expected pixels'
        yield error(f'{text}: multiply them by width and height of their images')
        return
    slack = 2 + 0.02 * sizes.max(1, keepdims=True, initial=0)
    outside = ((first + second > sizes + slack) | (first < -slack)).any(1)
    text = f'{source}: {outside.sum()} of {len(boxes)} boxes exceed their image'
    corners = (second >= first) & (second <= sizes + slack)
    half = second / 2
    centres = (first - half >= -slack) & (first + half <= sizes + slack)
    if len(boxes) >= MIN_BOXES and outside.sum() > MAX_OUTSIDE * len(boxes):
        for form, advice, fits in (
            ('x1, y1, x2, y2', 'x1, y1, x2 - x1, y2 - y1', corners),
            ('a centre and a size', 'x - width / 2, y - height / 2', centres),
        ):
            if fits.all(1).mean() > 0.98:
                expected = f'write them as x, y, width, height ({advice})'
                yield error(f'{text}; read as {form}, all fit: {expected}')
                return
    if outside.any():
        i = outside.argmax()
        size, box = '{:g} x {:g}'.format(*sizes[i]), shorten(f'{v:g}' for v in boxes[i])
        yield Finding(
            outside.sum() > 0.5 * len(boxes),
            f'{text}; the first is {box} in the {size} pixels of {names[i]}. Are they '
            'x, y, width, height in pixels of these images?',
        )


def check_instance_masks(part: Part) -> Iterator[Finding]:
    """The mask of an object lies in its box, and is not empty."""
    total, empty, beside = 0, [], []
    for sample in part.loaded:
        if sample.mask_boxes is not None and sample.boxes is not None:
            used = ~sample.ignored
            boxes, masks = sample.boxes[used], sample.mask_boxes[used]
            has_pixels = masks.any(1)
            total += len(boxes)
            empty += [sample.path] * int((~has_pixels).sum())
            overlaps = _overlaps(boxes, masks)
            beside += [sample.path] * int((has_pixels & (overlaps < 0.2)).sum())
    for paths, what in (
        (empty, 'have a mask without a pixel in the image'),
        (beside, 'have a mask that hardly meets their box'),
    ):
        if paths:
            yield Finding(
                len(paths) > 0.2 * total,
                f'{len(paths)} of {total} objects {what}, such as in {paths[0]}. Polygons '
                'are x1, y1, x2, y2, ... in pixels, the size of an RLE is height, width',
            )


def _corners(boxes):
    """Return x1, y1, x2, y2 of boxes."""
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _overlaps(a, b):
    """Return the IoU of boxes, one pixel larger so that none is without area."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:]) + 1
    areas = [np.prod(c[:, 2:] + 1 - c[:, :2], axis=1) for c in (a, b)]
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    return common / np.maximum(sum(areas) - common, 1e-6)


def check_lost_objects(part: Part) -> Iterator[Finding]:
    """The objects of the entries reach the loss."""
    lost = count_lost(part)
    total = sum(len(s.boxes) for s in part.loaded if s.boxes is not None)
    if part.is_train and (lost.total() > 0.5 * total or lost[IGNORED_RLE]):
        reasons = ', '.join(f'{n} {why}' for why, n in lost.items())
        what = f'{lost.total()} of {total} objects of {len(part.loaded)} images'
        text = f'{what} do not reach the loss: {reasons}'
        yield Finding(lost.total() == total, text)


def count_lost(part: Part) -> Counter:
    """Count the loaded objects that do not reach the loss, by reason."""
    lost: Counter = Counter()
    for sample in part.loaded:
        if sample.boxes is None:
            continue
        for instance, ignored in zip(sample.info.get('instances', ()), sample.ignored):
            if ignored and instance.get('ignore_flag'):
                lost['marked as crowd'] += 1
            elif ignored and isinstance(instance.get('mask'), dict):
                lost[IGNORED_RLE] += 1
            elif ignored:
                lost['with a polygon of less than three points'] += 1
        left = int((~sample.ignored).sum())
        kept = get_instances(sample.packed)
        if sample.packed is None:
            lost['dropped with their image by the pipeline'] += left
        elif kept is not None:
            # Mixing adds objects, so there may be more of them.
            lost['cropped or filtered by the pipeline'] += max(left - len(kept[0]), 0)
    return +lost
