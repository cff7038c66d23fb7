"""Rules that compare a data set on disk with what its pipeline loads."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ra_mm.checks.sample import Leaf, Sample, Scan, to_array
from ra_mm.validation import shorten

# Of the images or objects that were looked at: more is no accident.
FEW = 0.05


class Finding(NamedTuple):
    """One line of the report: an error where training would go wrong."""

    is_error: bool
    text: str
    cause: Exception | None = None


@dataclass
class Observed:
    """A dataset, its entries, and the samples that were loaded."""

    leaf: Leaf
    scan: Scan
    samples: list[Sample]

    @property
    def loaded(self) -> list[Sample]:
        return [s for s in self.samples if s.error is None]


Rule = Callable[[Observed], Iterator[Finding]]


def check_readable(data: Observed) -> Iterator[Finding]:
    """Every image and annotation can be read, completely."""
    bad = [(s, s.error) for s in data.samples if s.error is not None]
    if bad:
        _, error = bad[0]
        text = f'{_share(bad, data.samples)} cannot be loaded: {error}'
        yield Finding(True, text, error)
    broken = [s for s in data.loaded if s.stored and s.stored.problem]
    if broken:
        yield Finding(
            len(broken) > FEW * len(data.samples),
            f'{_share(broken, data.samples)} can be decoded only in part; the first is '
            f'{broken[0].path}: {broken[0].stored.problem}. Replace or remove them',
        )


def check_sizes(data: Observed) -> Iterator[Finding]:
    """Images have the size that the annotations were made for."""
    wrong = [(s, _get_declared(s)) for s in data.loaded if _has_other_size(s)]
    if not wrong:
        return
    sample, declared = wrong[0]
    stored = sample.stored.size if sample.stored else sample.size
    text = (
        f'{_share(wrong, data.samples)} are loaded with another size than their '
        f'annotations say; the first is {sample.path}: annotated {_size(declared)}, '
        f'loaded {_size(sample.size)}, '
    )
    if sample.stored and sample.stored.orientation != 1 and stored == tuple(declared):
        text += (
            f'since its EXIF orientation {sample.stored.orientation} turns it. Boxes '
            'and masks of the stored pixels do not fit: pass --cfg-options '
            f'{_find_loader(data.leaf)}.color_type=color_ignore_orientation (for the '
            'test pipeline too), or save the images turned and annotate those'
        )
    else:
        text += (
            'so boxes and masks may lie elsewhere. Restore the images that were '
            'annotated, or scale the annotations with their width and height'
        )
    yield Finding(len(wrong) > FEW * len(data.samples), text)


def _get_declared(sample):
    return sample.info.get('width'), sample.info.get('height')


def _has_other_size(sample):
    declared = _get_declared(sample)
    return None not in declared and sample.size and declared != sample.size


def _find_loader(leaf):
    """Return the key of the step that loads the image."""
    steps = getattr(leaf.dataset.pipeline, 'transforms', ())
    loaders = [
        i for i, s in enumerate(steps) if type(s).__name__ == 'LoadImageFromFile'
    ]
    return f'{leaf.key}.pipeline.{loaders[0] if loaders else 0}'


def check_orientation(data: Observed) -> Iterator[Finding]:
    """EXIF does not turn images whose size cannot tell."""
    turned = [
        s
        for s in data.loaded
        if s.stored
        and s.stored.orientation not in (0, 1)
        and (s.boxes is not None or s.mask_values is not None)
        and s.size == s.stored.size  # upside down or square, or EXIF is ignored
        and not _ignores_orientation(data.leaf)
    ]
    if turned:
        yield Finding(
            False,
            f'{_share(turned, data.samples)} have an EXIF orientation that turns them '
            f'and keeps their size; the first is {turned[0].path}. Make sure that '
            'they were annotated as they are shown, not as they are stored',
        )


def _ignores_orientation(leaf):
    steps = getattr(getattr(leaf.dataset, 'pipeline', None), 'transforms', ())
    flags = [str(getattr(step, 'color_type', '')) for step in steps]
    return any(flag == 'unchanged' or 'ignore_orientation' in flag for flag in flags)


def check_boxes(data: Observed) -> Iterator[Finding]:
    """Boxes lie inside their image, as it is loaded."""
    total, outside = 0, []
    for sample in data.loaded:
        if sample.boxes is None or sample.size is None or sample.boxes.shape[1] != 4:
            continue
        if _has_other_size(sample):  # which is said already
            continue
        width, height = sample.size
        slack = 2 + 0.02 * max(sample.size)
        low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
        bad = (low < -slack).any(1) | (high > np.array([width, height]) + slack).any(1)
        total += len(bad)
        outside += [(sample, box) for box in sample.boxes[bad]]
    if outside:
        sample, box = outside[0]
        yield Finding(
            len(outside) > 0.5 * total,
            f'{len(outside)} of {total} boxes leave their image; the first is '
            f'{shorten(f"{v:g}" for v in box)} (x1, y1, x2, y2) in the '
            f'{_size(sample.size)} pixels of {sample.path}. COCO boxes are x, y, width, '
            'height in pixels of the image',
        )


def check_masks_and_boxes(data: Observed) -> Iterator[Finding]:
    """The mask of an object lies in its box, and is not empty."""
    total, empty, beside = 0, [], []
    for sample in data.loaded:
        if sample.mask_boxes is None or sample.boxes is None:
            continue
        for box, mask_box, ignored in zip(
            sample.boxes, sample.mask_boxes, sample.ignored
        ):
            if ignored:
                continue
            total += 1
            if not mask_box.any():
                empty.append(sample)
            elif _iou(box, mask_box) < 0.2:
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


def check_objects(data: Observed) -> Iterator[Finding]:
    """The objects of the entries reach the loss."""
    lost: Counter = Counter()
    total = 0
    for sample in data.loaded if data.leaf.is_train else ():
        if sample.boxes is None:
            continue
        total += len(sample.boxes)
        lost.update(count_lost(sample, data.leaf.mixed_by is not None))
    if total and lost.total() > 0.5 * total:
        reasons = ', '.join(f'{n} {why}' for why, n in lost.items() if n)
        yield Finding(
            lost.total() == total,
            f'{lost.total()} of {total} objects of {len(data.loaded)} images do not '
            f'reach the loss: {reasons}',
        )


def count_lost(sample: Sample, is_mixed: bool = False) -> Counter:
    """Count the objects of a sample that do not reach the loss, by reason."""
    lost: Counter = Counter()
    for instance, ignored in zip(sample.info.get('instances', ()), sample.ignored):
        if ignored and instance.get('ignore_flag'):
            lost['marked as crowd'] += 1
        elif ignored:
            rle = isinstance(instance.get('mask'), dict)
            lost['with an RLE, which poly2mask=False ignores' if rle else
                 'with a polygon of less than three points'] += 1  # fmt: skip
    if sample.packed is None:
        lost['dropped with their image by the pipeline'] += int((~sample.ignored).sum())
    elif not is_mixed:
        kept = get_instances(sample.packed)
        if kept is not None:
            # Mixing adds objects, so there may be more of them.
            gone = int((~sample.ignored).sum()) - len(kept[0])
            lost['cropped or filtered by the pipeline'] += max(gone, 0)
    return lost


def get_instances(packed: dict):
    """Return the boxes and labels that the network gets, or None."""
    instances = getattr(packed.get('data_samples'), 'gt_instances', None)
    if instances is None or 'bboxes' not in instances:
        return None
    boxes = instances.bboxes
    boxes = getattr(boxes, 'tensor', boxes)
    return to_array(boxes), to_array(instances.labels)


def check_brightness(data: Observed) -> Iterator[Finding]:
    """Images of 16 bits are not cut to a few dark values of 8 bits."""
    dark = [s for s in data.loaded if s.stored and s.stored.has_16_bits]
    dark = [s for s in dark if s.brightest < 64]
    if dark:
        yield Finding(
            len(dark) > 0.5 * len(data.samples),
            f'{_share(dark, data.samples)} have 16 bits, of which the upper 8 are '
            f'loaded; the first is {dark[0].path}, where the largest of them is '
            f"{dark[0].brightest:g} of 255. Add color_type='unchanged' and "
            'to_float32=True to LoadImageFromFile, or scale the images to 8 bits',
        )


def check_inputs(data: Observed) -> Iterator[Finding]:
    """The network gets finite numbers."""
    for sample in data.loaded:
        image = (sample.packed or {}).get('inputs')
        if hasattr(image, 'isfinite') and not image.float().isfinite().all():
            yield Finding(True, f'{sample.path} is loaded with nan or infinite pixels')
            return


def _share(some, samples) -> str:
    return f'{len(some)} of {len(samples)} images that were looked at'


def _size(size) -> str:
    return f'{size[0]} x {size[1]}'
