"""Boxes: within their images, around their masks, and not lost on their way."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ra_mm.checks.annotations import iter_all_coco
from ra_mm.checks.coco import is_coco
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error
from ra_mm.checks.images import has_other_size
from ra_mm.checks.sample import Part, Sample, get_instances
from ra_mm.validation import shorten

MIN_BOXES = 8  # to tell the format of boxes from their values
MAX_OUTSIDE = 0.1  # fraction of boxes out of their image that the format explains

IGNORED_RLE = 'with an RLE, which poly2mask=False ignores'


def check_coco_boxes(context: Context) -> Iterator[Finding]:
    """Boxes of annotation files are x, y, width, height in pixels."""
    for _, coco in iter_all_coco(context):
        listed = coco.image_of >= 0
        images = coco.image_of[listed]
        names = np.array(list(coco.file_names.values()), dtype=object)[images]
        yield from _judge(
            coco.path, coco.boxes[listed], coco.image_sizes[images], names
        )


def check_loaded_boxes(part: Part) -> Iterator[Finding]:
    """Boxes of other datasets lie inside their image, as it is loaded."""
    if is_coco(part.dataset):  # whose file has more of them
        return
    boxes, sizes, names = [], [], []
    for sample in part.loaded:
        # Another size is a fault of its own.
        if sample.boxes is None or not sample.size or has_other_size(sample):
            continue
        if sample.boxes.shape[1] == 4:
            boxes += [(x, y, u - x, v - y) for x, y, u, v in sample.boxes]
            sizes += [sample.size] * len(sample.boxes)
            names += [sample.path] * len(sample.boxes)
    if boxes:
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
        yield error(
            f'{source}: all boxes are within 0 and 1, expected x, y, width, height in '
            'pixels; multiply them by the width and the height of their images'
        )
        return
    slack = 2 + 0.02 * sizes.max(1, keepdims=True, initial=0)
    outside = ((first + second > sizes + slack) | (first < -slack)).any(1)
    text = f'{source}: {outside.sum()} of {len(boxes)} boxes exceed their image'
    formats = (
        (
            'x1, y1, x2, y2',
            'x1, y1, x2 - x1, y2 - y1',
            (second >= first) & (second <= sizes + slack),
        ),
        (
            'a centre, width and height',
            'x - width / 2, y - height / 2',
            (first - second / 2 >= -slack) & (first + second / 2 <= sizes + slack),
        ),
    )
    are_wrong = len(boxes) >= MIN_BOXES and outside.sum() > MAX_OUTSIDE * len(boxes)
    for form, advice, fits in formats:
        if are_wrong and fits.all(1).mean() > 0.98:
            yield error(
                f'{text}; read as {form}, all fit: write them as x, y, width, height '
                f'({advice})'
            )
            return
    if outside.any():
        i = outside.argmax()
        yield Finding(
            outside.sum() > 0.5 * len(boxes),
            f'{text}; the first is {shorten(f"{v:g}" for v in boxes[i])} in the '
            f'{sizes[i][0]:g} x {sizes[i][1]:g} pixels of {names[i]}. Are they x, y, '
            'width, height in pixels of these images?',
        )


def check_instance_masks(part: Part) -> Iterator[Finding]:
    """The mask of an object lies in its box, and is not empty."""
    total, empty, beside = 0, [], []
    for sample in part.loaded:
        if sample.mask_boxes is None or sample.boxes is None:
            continue
        for i in np.flatnonzero(~sample.ignored):
            total += 1
            if not sample.mask_boxes[i].any():
                empty.append(sample)
            elif _iou(sample.boxes[i], sample.mask_boxes[i]) < 0.2:
                beside.append(sample)
    for samples, what in (
        (empty, 'have a mask without a pixel in the image'),
        (beside, 'have a mask that hardly meets their box'),
    ):
        if samples:
            yield Finding(
                len(samples) > 0.2 * total,
                f'{len(samples)} of {total} objects {what}; the first is in '
                f'{samples[0].path}. Polygons are x1, y1, x2, y2, ... in pixels, and '
                'the size of an RLE is height, width',
            )


def _iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:] + 1, b[2:] + 1)
    overlap = np.prod(np.clip(high - low, 0, None))
    union = np.prod(a[2:] + 1 - a[:2]) + np.prod(b[2:] + 1 - b[:2]) - overlap
    return overlap / max(union, 1e-6)


def check_lost_objects(part: Part) -> Iterator[Finding]:
    """The objects of the entries reach the loss."""
    lost: Counter = Counter()
    samples = [s for s in part.loaded if s.boxes is not None]
    for sample in samples:
        lost += count_lost(sample)
    total = sum(len(s.boxes) for s in samples)
    if part.is_train and (lost.total() > 0.5 * total or lost[IGNORED_RLE]):
        reasons = ', '.join(f'{n} {why}' for why, n in lost.items())
        yield Finding(
            lost.total() == total,
            f'{lost.total()} of {total} objects of {len(part.loaded)} images do not '
            f'reach the loss: {reasons}',
        )


def count_lost(sample: Sample) -> Counter:
    """Count the objects of a sample that do not reach the loss, by reason."""
    lost: Counter = Counter()
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
