"""Checks of mmpretrain's lists of labels and class folders, before they are read."""

import os
import os.path as osp
import sys
from collections.abc import Iterator

from ra_mm.validation import shorten


def _is_custom(dataset) -> bool:
    # If it is one of mmpretrain's, mmpretrain has been imported.
    module = sys.modules.get('mmpretrain.datasets')
    return (
        module is not None
        and isinstance(dataset, module.CustomDataset)
        and type(dataset).load_data_list is module.CustomDataset.load_data_list
        and dataset.with_label
    )


def check_label_lists(dataset, key: str, num_classes: int | None) -> Iterator[str]:
    """Yield the first line of a list that is not an image and a label.

    Args:
        dataset: Any dataset; those without such a list are passed over.
        key: Its key in the config.
        num_classes: That of the model, for lists without names of classes.
    """
    path = getattr(dataset, 'ann_file', '')
    if not (_is_custom(dataset) and path and osp.isfile(path)):
        return
    with open(path, encoding='utf-8', errors='surrogateescape') as file:
        lines = file.read().splitlines()
    count = len(dataset.metainfo.get('classes') or ()) or num_classes or 0
    expected = 'expected an image, one space and the number of its class'
    if not any(line.strip() for line in lines):
        yield f'{path} is empty: {expected} in each line'
        return
    labels = {}  # the first line of each
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(' ')
        try:
            labels.setdefault(int(label), number)
        except ValueError:
            name = ''
        if not name.strip():
            yield f'{path}, line {number}: {expected}, found {line!r}'
            return
    wrong = sorted(label for label in labels if not 0 <= label < count)
    if count and wrong:
        hint = ''
        if min(labels) == 1 and max(labels) == count:
            hint = '; they begin at 1, so subtract 1'
        yield (
            f'{path}, line {labels[wrong[0]]}: the label is {wrong[0]}, but the '
            f'{count} classes of {key} are numbered 0 to {count - 1}{hint}'
        )
    yield from _check_listed_images(dataset, path, lines)


def _check_listed_images(dataset, path, lines):
    """A few of the first, the last and in between: a list may have a million."""
    names = [line.strip().rpartition(' ')[0] for line in lines]
    step = max(1, len(names) // 2000)
    folder = dataset.img_prefix
    for i in sorted({*range(0, len(names), step), len(names) - 1}):
        if not osp.exists(osp.join(folder, names[i])):
            yield f'{path}, line {i + 1}: there is no image {osp.join(folder, names[i])}'
            return


def check_label_folders(dataset, key: str) -> Iterator[str]:
    """Yield folders that would become classes by mistake."""
    folder = dataset.data_prefix.get('img_path')
    if not _is_custom(dataset) or dataset.ann_file or not osp.isdir(folder or ''):
        return
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    hidden = [name for name in names if name.startswith(('.', '__'))]
    if hidden:
        yield (
            f'{folder} has folders that are no classes, but would be taken as such: '
            f'{shorten(hidden)}; remove them (rm -r '
            f'{" ".join(repr(osp.join(folder, name)) for name in hidden[:8])})'
        )
    elif not names:
        yield f'{folder} has no folders: expected one for each class of {key}'
        return
    empty = [
        name
        for name in names
        if name not in hidden and not _has_image(dataset, osp.join(folder, name))
    ]
    if empty:
        yield (
            f'{folder}: the class folders {shorten(empty)} have no image with '
            f'{shorten(sorted(dataset.extensions))}; remove them, or add images'
        )


def _has_image(dataset, folder):
    for _, _, names in os.walk(folder):
        if any(
            dataset.is_valid_file(name) and not name.startswith('.') for name in names
        ):
            return True
    return False
