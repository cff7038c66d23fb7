"""Masks of segmentation: one value a pixel, and the classes that these values are."""

from collections import Counter
from collections.abc import Iterator

from ra_mm.checks.finding import Finding, error, warning
from ra_mm.checks.sample import Part
from ra_mm.engine.samples import find_unknown_labels
from ra_mm.validation import shorten


def check_mask_files(part: Part) -> Iterator[Finding]:
    """Masks have one value a pixel, and the size of their image."""
    if bad := [s for s in part.loaded if s.mask_problem]:
        first = f'{bad[0].info["seg_map_path"]}: {bad[0].mask_problem}'
        yield error(f'{part.share(bad)} have a mask that does not fit, such as {first}')


def count_values(part: Part) -> Counter:
    """Count the pixels of all masks by (stored, loaded) value."""
    return sum((s.mask_values or Counter() for s in part.loaded), Counter())


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
    # The value of the first class in the files
    first = int(getattr(part.dataset, 'reduce_zero_label', False))
    if large:
        values = shorten(f'{v} as {large[v]}' for v in sorted(large))
        yield error(
            f'masks hold values that do not fit into 8 bits: {values}; one file is '
            f'{_file_with(part, min(large))}. Save the classes as 0 to 254, with 8 bits'
        )
    elif unknown:
        numbers = sorted({v for v, label in counts if label in unknown})
        yield error(
            f'masks hold the values {shorten(numbers)}, but the {len(classes)} classes '
            f'are {first} to {len(classes) - 1 + first} in the files, {ignore} is '
            f'ignored; one file is {_file_with(part, numbers[0])}. Change the masks, '
            'metainfo.classes, ignore_index or reduce_zero_label'
        )
    elif part.is_train or labels == {ignore}:
        yield from _check_classes(part, counts, ignore, first)


def _check_classes(part, counts, ignore, first):
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
        numbers = shorten(f'{i} for {n}' for i, n in enumerate(part.classes, first))
        text = f'no pixel of {shorten(missing)} reaches the loss{because}'
        advice = f'Save each class with its own number, {numbers}'
        yield error(f'in {masks} masks {text}. {advice}')
    elif missing and (is_enough or is_one):
        lacking = f'there is no pixel of {shorten(missing)}'
        yield warning(f'in {masks} masks {lacking}{because}')
    elif share > 0.5:
        yield warning(f'in {masks} masks {values} pixels')


def _file_with(part, value):
    files = (s for s in part.loaded if any(v == value for v, _ in s.mask_values or ()))
    return next(files).info['seg_map_path']
