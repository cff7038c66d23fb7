"""A report of the data in words and figures, with a table by class."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ra_mm.checks.boxes import count_lost
from ra_mm.checks.finding import Findings
from ra_mm.checks.masks import count_values
from ra_mm.checks.sample import Part, get_instances


def format_report(parts: Sequence[Part], found: Findings) -> str:
    """Format what was looked at, and what was found."""
    lines: list[str] = []
    for part in parts:
        rows = _make_pixel_rows(part) or _make_object_rows(part)
        lines += [*_describe_part(part), '', *_format_table(rows), '']
        lines += [*_describe_sizes(part), '']
    lines += [f'error: {text}' for text in found.errors]
    lines += [f'warning: {text}' for text in found.warnings]
    return '\n'.join(lines if found else [*lines, 'nothing is wrong'])


def _describe_part(part: Part) -> Iterator[str]:
    scan, num = part.scan, len(part.samples)
    yield f'== {part.key}: {type(part.dataset).__name__}'
    read = f'read {"all" if scan.is_complete else len(scan.strata)} entries'
    yield f'{scan.num_images} images; {read} and loaded {num} through the pipeline'
    for reason, n in count_lost(part).items():
        yield f'{n} objects of these images {reason}'


def _make_pixel_rows(part: Part) -> list[tuple]:
    """Count pixels by class; empty if there are no masks."""
    pixels, names = count_values(part), dict(enumerate(part.classes))
    rows: list[tuple] = [('class', 'in files', 'images', 'pixels', '%')]
    for label in (*names, *sorted({label for _, label in pixels} - set(names))):
        found = {v: n for (v, other), n in pixels.items() if other == label}
        masks = [{x for _, x in s.mask_values or ()} for s in part.loaded]
        n, values = sum(found.values()), ','.join(map(str, [*found][:6])) or '-'
        share = f'{100 * n / (pixels.total() or 1):.2f}'
        images = sum(label in labels for labels in masks)
        rows.append((names.get(label, 'ignored'), values, images, n, share))
    return rows if pixels else []


def _make_object_rows(part: Part) -> list[tuple]:
    kept: Counter = Counter()
    loaded: Counter = Counter()
    for sample in part.loaded:
        if sample.labels is not None:
            loaded.update(sample.labels.tolist())
        if (instances := get_instances(sample.packed)) is not None:
            kept.update(instances[1].tolist())
    rows: list[tuple] = [('class', 'images', 'objects', 'loaded', 'kept')]
    images = Counter(x for _, *labels in part.scan.strata.values() for x in labels)
    for label, name in enumerate(part.classes):
        scan = images[label], part.scan.objects[label]
        rows.append((name, *scan, loaded[label], kept[label]))
    has_boxes = any(s.boxes is not None for s in part.loaded)
    return rows if has_boxes else [row[:2] for row in rows]


def _format_table(rows: list[tuple]) -> Iterator[str]:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    for first, *others in rows:
        cells = (f'{cell!s:>{width}}' for cell, width in zip(others, widths[1:]))
        yield '  '.join([f'{first:<{widths[0]}}', *cells])


def _describe_sizes(part: Part) -> Iterator[str]:
    stored = [s.stored.size for s in part.samples if s.stored]
    arrays: list[Any] = [(s.packed or {}).get('inputs') for s in part.loaded]
    inputs = [tuple(x.shape[-2:])[::-1] for x in arrays if hasattr(x, 'shape')]
    if stored and inputs:
        yield f'images: {_range(stored)} on disk, {_range(inputs)} from the pipeline'
    sides = []
    for sample in part.loaded:
        boxes, _ = get_instances(sample.packed) or (np.zeros((0, 4)), None)
        if boxes.shape[-1] == 4 and len(boxes):
            low, high = np.split(boxes * (*sample.scale, *sample.scale), 2, axis=1)
            sides.append(np.sqrt(np.clip(high - low, 0, None).prod(1)))
    if sides:
        low, middle, high = np.quantile(np.concatenate(sides), [0.05, 0.5, 0.95])
        text = f'objects: {low:.0f} to {high:.0f} pixels wide in the network, half of'
        yield f'{text} them below {middle:.0f} (sides of squares of the same area)'


def _range(sizes: Sequence[tuple]) -> str:
    low, high = ('{} x {}'.format(*f(sizes, axis=0)) for f in (np.min, np.max))
    return low if low == high else f'{low} to {high}'
