"""A report of the data in words and figures, with a table by class."""

from collections import Counter, defaultdict
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
    scan = part.scan
    yield f'== {part.key}: {type(part.dataset).__name__}'
    entries = 'all entries' if scan.is_complete else f'{scan.num_scanned} entries'
    yield (
        f'{scan.num_images} images; read {entries} and loaded {len(part.samples)} '
        'images through the pipeline'
    )
    lost: Counter = Counter()
    for sample in part.loaded:
        if sample.boxes is not None:
            lost += count_lost(sample)
    for reason, n in lost.items():
        yield f'{n} objects of these images {reason}'


def _make_pixel_rows(part: Part) -> list[tuple]:
    """Count pixels by class; empty if there are no masks."""
    pixels = count_values(part)
    by_label: Counter = Counter()
    values = defaultdict(list)
    for (value, label), n in pixels.items():
        by_label[label] += n
        values[label].append(str(value))
    images: Counter = Counter()
    for sample in part.loaded:
        images.update({label for _, label in sample.mask_values or ()})
    names = dict(enumerate(part.classes))
    rows = [
        (
            names.get(label, 'ignored'),
            ','.join(values[label][:6]) or '-',
            images[label],
            by_label[label],
            f'{100 * by_label[label] / pixels.total():.2f}',
        )
        for label in (*names, *sorted(set(by_label) - set(names)))
        if pixels
    ]
    return rows and [('class', 'in files', 'images', 'pixels', '%'), *rows]


def _make_object_rows(part: Part) -> list[tuple]:
    kept: Counter = Counter()
    loaded: Counter = Counter()
    for sample in part.loaded:
        if sample.labels is not None:
            loaded.update(sample.labels.tolist())
        _, labels = get_instances(sample.packed) or ((), np.array(()))
        kept.update(labels.tolist())
    rows: list[tuple] = [('class', 'images', 'objects', 'loaded', 'kept')]
    for label, name in enumerate(part.classes):
        scan = part.scan.images[label], part.scan.objects[label]
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
    inputs: Iterator[Any] = ((s.packed or {}).get('inputs') for s in part.loaded)
    packed = [tuple(x.shape[-2:])[::-1] for x in inputs if hasattr(x, 'shape')]
    if stored and packed:
        yield f'images: {_range(stored)} on disk, {_range(packed)} in the network'
    sides = []
    for sample in part.loaded:
        boxes, _ = get_instances(sample.packed) or (np.zeros((0, 4)), None)
        if boxes.shape[-1] == 4 and len(boxes):
            low, high = np.split(boxes * (*sample.scale, *sample.scale), 2, axis=1)
            sides.append(np.sqrt(np.clip(high - low, 0, None).prod(1)))
    if sides:
        low, middle, high = np.quantile(np.concatenate(sides), [0.05, 0.5, 0.95])
        yield (
            f'objects: {low:.0f} to {high:.0f} pixels wide in the network, half of them '
            f'below {middle:.0f} (the side of a square of the same area)'
        )


def _range(sizes: Sequence[tuple]) -> str:
    low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
    text = f'{low[0]} x {low[1]}'
    return text if (low == high).all() else f'{text} to {high[0]} x {high[1]}'
