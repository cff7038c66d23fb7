"""The report of an audit in words and figures, with a table by class."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from mmengine.config import Config

from ra_mm.checks.images import Observed, count_lost, get_instances
from ra_mm.checks.labels import count_values
from ra_mm.checks.run import Audit
from ra_mm.engine.config import iter_dicts


def format_report(found: Audit, cfg: Config) -> str:
    """Format what was looked at, and what was found."""
    lines: list[str] = []
    for data in found.parts:
        lines += [*_describe_part(data), '', *_make_table(data), '']
        lines += [*_describe_sizes(data, cfg), '']
    for name, texts in (('error', found.errors), ('warning', found.warnings)):
        lines += [f'{name}: {text}' for text in texts]
    if not found.errors and not found.warnings:
        lines.append('nothing is wrong')
    return '\n'.join(lines)


def _describe_part(data: Observed) -> Iterator[str]:
    total, scanned = data.scan.num_images, data.scan.num_scanned
    yield f'== {data.leaf.key}: {type(data.leaf.dataset).__name__}'
    entries = 'all entries' if data.scan.is_complete else f'{scanned} entries'
    yield (
        f'{total} images; read {entries} and loaded {len(data.samples)} images through '
        'the pipeline'
    )
    left_out: Counter = Counter()
    for sample in data.loaded:
        if sample.boxes is not None:
            left_out.update(count_lost(sample, data.leaf.mixed_by is not None))
    for reason, n in left_out.items():
        if n:
            yield f'{n} objects of these images {reason}'


def _make_table(data: Observed) -> Iterator[str]:
    names = data.leaf.classes
    pixels = count_values(data)
    if pixels:
        by_label: Counter = Counter()
        values: dict = {}
        for (value, label), n in pixels.items():
            by_label[label] += n
            values.setdefault(label, []).append(str(value))
        images: Counter = Counter()
        for sample in data.loaded:
            images.update({label for _, label in sample.mask_values or ()})
        rows = [('class', 'in files', 'images', 'pixels', '%')]
        for label in [
            *range(len(names)),
            *sorted(set(by_label) - set(range(len(names)))),
        ]:
            name = names[label] if label < len(names) else 'ignored'
            share = f'{100 * by_label[label] / pixels.total():.2f}'
            stored = ','.join(values.get(label, ['-'])[:6])
            rows.append((name, stored, images[label], by_label[label], share))
    else:
        kept: Counter = Counter()
        loaded: Counter = Counter()
        for sample in data.loaded:
            if sample.labels is not None and sample.ignored is not None:
                loaded.update(sample.labels.tolist())
            instances = get_instances(sample.packed or {})
            if instances:
                kept.update(instances[1].tolist())
        rows = [('class', 'images', 'objects', 'loaded', 'kept')]
        if not any(s.boxes is not None for s in data.loaded):
            rows = [('class', 'images')]
        for label, name in enumerate(names):
            row = (name, data.scan.images[label], data.scan.objects[label])
            rows.append((*row, loaded[label], kept[label])[: len(rows[0])])
        if not names:
            return
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        first, *others = zip(row, widths)
        cells = [f'{first[0]:<{first[1]}}', *(f'{c!s:>{w}}' for c, w in others)]
        yield '  '.join(cells)


def _describe_sizes(data: Observed, cfg: Config) -> Iterator[str]:
    stored = [s.stored.size for s in data.samples if s.stored]
    packed = [
        tuple(s.packed['inputs'].shape[-2:][::-1])
        for s in data.loaded
        if hasattr((s.packed or {}).get('inputs'), 'shape')
    ]
    if stored and packed:
        yield f'images: {_range(stored)} on disk, {_range(packed)} in the network'
    sides = []
    for sample in data.loaded:
        found = get_instances(sample.packed or {})
        if found and found[0].shape[-1] == 4 and len(found[0]):
            low, high = np.split(found[0] * (*sample.scale, *sample.scale), 2, axis=1)
            sides.append(np.sqrt(np.clip(high - low, 0, None).prod(1)))
    if sides:
        low, middle, high = np.quantile(np.concatenate(sides), [0.05, 0.5, 0.95])
        text = f'objects: {low:.0f} to {high:.0f} pixels wide in the network, half of '
        text += f'them below {middle:.0f} (the side of a square of the same area)'
        yield text
        anchors = _find_anchors(cfg)
        if anchors:
            yield f'anchors: {min(anchors):.0f} to {max(anchors):.0f} pixels wide'


def _range(sizes) -> str:
    low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
    text = f'{low[0]} x {low[1]}'
    return text if (low == high).all() else f'{text} to {high[0]} x {high[1]}'


def _find_anchors(cfg: Config) -> list[float]:
    for key, node in iter_dicts(cfg.model, 'model'):
        if key.endswith('anchor_generator'):
            strides = node.get('strides') or []
            scales = node.get('scales')
            if node.get('octave_base_scale') and node.get('scales_per_octave'):
                steps = node.scales_per_octave
                scales = [
                    node.octave_base_scale * 2 ** (i / steps) for i in range(steps)
                ]
            if scales:
                return [float(a * np.max(b)) for a in scales for b in strides]
    return []
