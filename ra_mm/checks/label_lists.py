"""Lists of labels and class folders of mmpretrain, before it reads them."""

import os
import os.path as osp
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.files import find_missing
from ra_mm.checks.finding import Finding, error
from ra_mm.checks.labels import describe_bad_labels, is_custom
from ra_mm.engine.config import get_value
from ra_mm.validation import shorten

MAX_LISTED = 2000  # images that are looked for, of a list that may have a million


def check_label_lists(context: Context) -> Iterator[Finding]:
    """Each line of a list is an image and the number of its class."""
    number = get_value(context.cfg, 'model.head.num_classes')
    for entry in context.datasets:
        if is_custom(entry.dataset) and entry.dataset.ann_file:
            yield from _check_list(entry.key, entry.dataset, number)


def _check_list(key, dataset, num_classes):
    """Check a list; its labels are those of the model if its classes have no names."""
    path = dataset.ann_file
    with open(path, encoding='utf-8', errors='surrogateescape') as file:
        lines = file.read().splitlines()
    expected = 'expected an image, one space and the number of its class'
    if not any(line.strip() for line in lines):
        yield error(f'{path} is empty: {expected} in each line')
        return
    names: list[str] = []
    first: dict[int, int] = {}  # line of each label
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(' ')
        try:
            first.setdefault(int(label), number)
        except ValueError:
            name = ''
        if not name.strip():
            yield error(f'{path}, line {number}: {expected}, found {line!r}')
            return
        names.append(name)
    count = len(dataset.metainfo.get('classes') or ()) or num_classes or 0
    bad, text = describe_bad_labels(first, count)
    if bad:
        yield error(f'{path}, line {first[bad[0]]}: {text}')
    step = max(1, len(names) // MAX_LISTED)
    paths = [osp.join(dataset.img_prefix, name) for name in names[::step]]
    yield from find_missing(paths, f'images of {path}')


def check_class_folders(context: Context) -> Iterator[Finding]:
    """Each folder is a class."""
    for entry in context.datasets:
        folder = entry.dataset.data_prefix.get('img_path') or ''
        if is_custom(entry.dataset) and not entry.dataset.ann_file and folder:
            names = sorted(e.name for e in os.scandir(folder) if e.is_dir())
            hidden = [name for name in names if name.startswith(('.', '__'))]
            if hidden:
                paths = ' '.join(repr(osp.join(folder, name)) for name in hidden[:8])
                yield error(
                    f'{folder} has folders that are no classes, but would be taken as '
                    f'such: {shorten(hidden)}; remove them (rm -r {paths})'
                )
