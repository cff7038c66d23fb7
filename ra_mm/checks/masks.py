"""Masks of segmentation: one value a pixel, and the classes that these values are."""

from collections import Counter
from collections.abc import Iterator

from ra_mm.checks.finding import Finding, error, warning
from ra_mm.checks.sample import Part
from ra_mm.engine.samples import find_unknown_labels
from ra_mm.validation import shorten


def check_mask_files(part: Part) -> Iterator[Finding]:
    """Masks have one value a pixel, and the size of their image."""
    bad = [s for s in part.loaded if s.mask_problem]
    if bad:
        yield error(
            f'{part.share(bad)} have a mask that does not fit; the first is '
            f'{bad[0].info["seg_map_path"]}: {bad[0].mask_problem}'
        )


def count_values(part: Part) -> Counter:
    """Count the pixels of all masks by (stored, loaded) value."""
    total: Counter = Counter()
    for sample in part.loaded:
        total.update(sample.mask_values or {})
    return total


def check_mask_values(part: Part) -> Iterator[Finding]:
    """The values in the files are classes, and enough pixels of each reach the loss."""
    counts, classes = count_values(part), part.classes
    ignore = getattr(part.dataset, 'ignore_index', None)  # only in mmseg
    if not counts or not classes or ignore is None:
        return
    # The value -1 is an ignored one too.
    large = {
        v: label
        for v, label in sorted(counts, reverse=True)
        if (not 0 <= v <= 255 or v != int(v)) and (v, label) != (-1, ignore)
    }
    labels = {label for _, label in counts}
    unknown = set(find_unknown_labels(labels, len(classes), ignore))
    if large:
        yield error(
            'masks hold values that do not fit into 8 bits and are loaded as others: '
            f'{shorten(f"{v} as {large[v]}" for v in sorted(large))}; one file is '
            f'{_file_with(part, min(large))}. Number the classes from 0 to 254 and '
            'save the masks with 8 bits'
        )
    elif unknown:
        first = _first_number(part)
        values = sorted({v for v, label in counts if label in unknown})
        yield error(
            f'masks hold the values {shorten(values)}, but the {len(classes)} classes '
            f'are {first} to {len(classes) - 1 + first} in the files, {ignore} is '
            f'ignored; one file is {_file_with(part, values[0])}. Change the masks, '
            'metainfo.classes, ignore_index or reduce_zero_label'
        )
    elif part.is_train:
        yield from _check_classes(part, counts, ignore)


def _check_classes(part, counts, ignore):
    """Check that there are pixels of each class, and that most are not ignored."""
    present = {label for _, label in counts if label != ignore}
    missing = [name for i, name in enumerate(part.classes) if i not in present]
    ignored = {v: n for (v, label), n in counts.items() if label == ignore}
    share = sum(ignored.values()) / counts.total()
    masks = sum(s.mask_values is not None for s in part.loaded)
    values = f'the value {shorten(ignored)} of the files is ignored, {share:.0%} of all'
    because = f'; {values} pixels' if ignored else ''
    is_one = len(present) <= 1 < len(part.classes)
    is_enough = masks == part.scan.num_images or masks >= 8 * len(part.classes)
    if missing and is_one and ignored and masks >= 8:
        first = _first_number(part)
        numbers = (f'{i + first} for {name}' for i, name in enumerate(part.classes))
        yield error(
            f'in {masks} masks no pixel of {shorten(missing)} reaches the loss{because}'
            f'. Save each class with its own number, {shorten(numbers)}'
        )
    elif missing and (is_enough or is_one):
        yield warning(
            f'in {masks} masks there is no pixel of {shorten(missing)}{because}'
        )
    elif share > 0.5:
        yield warning(f'in {masks} masks {values} pixels')


def _first_number(part):
    """Return the value of the first class in the files."""
    return int(getattr(part.dataset, 'reduce_zero_label', False))


def _file_with(part, value):
    return next(
        sample.info['seg_map_path']
        for sample in part.loaded
        if any(v == value for v, _ in sample.mask_values or ())
    )
