"""Rules about labels: the values of masks, and names against numbers."""

import os.path as osp
from collections import Counter
from collections.abc import Iterator, Sequence

from ra_mm.checks.images import Finding, Observed, _share
from ra_mm.checks.masks import list_left_out
from ra_mm.validation import shorten


def check_mask_files(data: Observed) -> Iterator[Finding]:
    """Masks have one value a pixel, and the size of their image."""
    bad = [s for s in data.loaded if s.mask_problem]
    if bad:
        path = bad[0].info['seg_map_path']
        text = f'{_share(bad, data.samples)} have a mask that does not fit; the first '
        yield Finding(True, f'{text}is {path}: {bad[0].mask_problem}')


def count_values(data: Observed) -> Counter:
    """Count the pixels of all masks by (stored, loaded) value."""
    total: Counter = Counter()
    for sample in data.loaded:
        total.update(sample.mask_values or {})
    return total


def _file_with(data, stored):
    for sample in data.loaded:
        if any(v == stored for v, _ in sample.mask_values or ()):
            return sample.info['seg_map_path']


def check_mask_values(data: Observed) -> Iterator[Finding]:
    """The values in the files are classes, or what is ignored."""
    counts = count_values(data)
    classes, ignore = data.leaf.classes, _ignore_index(data)
    if not counts or not classes or ignore is None:
        return
    reduce = getattr(data.leaf.dataset, 'reduce_zero_label', False)
    fit = f'the {len(classes)} classes are {int(reduce)} to '
    fit += f'{len(classes) - 1 + int(reduce)} in the files, {ignore} is ignored'
    wide = sorted(
        {
            v
            for v, label in counts
            if (not 0 <= v <= 255 or v != int(v)) and (v, label) != (-1, ignore)
        }
    )
    if wide:
        pairs = dict(sorted(counts)[::-1])
        examples = shorten(f'{v} as {pairs[v]}' for v in wide)
        yield Finding(
            True,
            f'masks hold values that do not fit into 8 bits and are loaded as others: '
            f'{examples}; one file is {_file_with(data, wide[0])}. Number the classes '
            'from 0 to 254 and save the masks with 8 bits',
        )
        return
    unknown = sorted(
        {v for v, label in counts if label >= len(classes) and label != ignore}
    )
    if unknown:
        yield Finding(
            True,
            f'masks hold the values {shorten(unknown)}, but {fit}; one file is '
            f'{_file_with(data, unknown[0])}. Change the masks, metainfo.classes, '
            'ignore_index or reduce_zero_label',
        )


def check_ignored_pixels(data: Observed) -> Iterator[Finding]:
    """Enough pixels reach the loss, of every class."""
    counts, classes = count_values(data), data.leaf.classes
    ignore = _ignore_index(data)
    if not counts or not classes or ignore is None or not data.leaf.is_train:
        return
    if any(check_mask_values(data)):  # which says it better
        return
    present = {label for _, label in counts if 0 <= label < len(classes)}
    missing = [name for i, name in enumerate(classes) if i not in present]
    ignored: Counter = Counter()
    for (value, label), n in counts.items():
        if label == ignore:
            ignored[value] += n
    share = ignored.total() / counts.total()
    masks = sum(s.mask_values is not None for s in data.loaded)
    because = ''
    if ignored:
        because = f'; the value {shorten(ignored)} of the files is ignored, {share:.0%}'
        because += ' of all pixels'
    is_enough = masks == data.scan.num_images or masks >= 8 * len(classes)
    if missing and (len(present) <= 1 < len(classes)) and ignored and masks >= 8:
        yield Finding(
            True,
            f'in {masks} masks no pixel of {shorten(missing)} reaches the loss{because}'
            f'. Save each class with its own number, {shorten(_numbers(data))}',
        )
    elif missing and (is_enough or len(present) <= 1 < len(classes)):
        yield Finding(
            False, f'in {masks} masks there is no pixel of {shorten(missing)}{because}'
        )
    elif share > 0.5:
        yield Finding(False, f'in {masks} masks{because.replace(";", "", 1)}')


def _numbers(data):
    first = int(getattr(data.leaf.dataset, 'reduce_zero_label', False))
    return [f'{i + first} for {name}' for i, name in enumerate(data.leaf.classes)]


def _ignore_index(data):
    return getattr(data.leaf.dataset, 'ignore_index', None)  # only in mmseg


def check_names(data: Observed) -> Iterator[Finding]:
    """Each class has a name of its own, unless the dataset comes with its names."""
    own = getattr(type(data.leaf.dataset), 'METAINFO', {}).get('classes') or ()
    if tuple(own) == data.leaf.classes:  # two classes of ImageNet are a crane
        return
    counts = Counter(name.strip() for name in data.leaf.classes)
    twice = [name for name, n in counts.items() if n > 1 or not name]
    if twice:
        yield Finding(
            False, f'metainfo.classes has empty names, or names twice: {shorten(twice)}'
        )


def check_overlap(parts: Sequence[Observed]) -> Iterator[Finding]:
    """Images to validate with are not trained on."""
    trained = {path for d in parts if d.leaf.is_train for path in d.scan.paths if path}
    for data in parts:
        both = data.scan.paths & trained
        if both and not data.leaf.is_train:
            yield Finding(
                False,
                f'{data.leaf.key}: {len(both)} of {len(data.scan.paths)} images are '
                f'trained on too, such as {min(both)}',
            )


def check_label_range(data: Observed) -> Iterator[Finding]:
    """Labels are 0 to the number of classes - 1."""
    count = len(data.leaf.classes)
    bad = [label for label in data.scan.objects if not 0 <= label < count]
    if count and bad:
        begin = min(data.scan.objects)
        hint = ' They seem to begin at 1: subtract 1' if begin == 1 else ''
        yield Finding(
            True,
            f'{sum(data.scan.objects[x] for x in bad)} labels are {shorten(bad)}, but '
            f'the {count} classes are numbered 0 to {count - 1}.{hint}',
        )


def check_folder_names(data: Observed) -> Iterator[Finding]:
    """Folders that are named as a class have the number of that class."""
    classes = data.leaf.classes
    wrong = {}
    if any(check_label_range(data)):  # which says it better
        return
    for folder, labels in data.scan.folders.items():
        name = osp.basename(folder)
        if name in classes:
            (label, _), *others = labels.most_common()
            if label < len(classes) and classes[label] != name:
                wrong[name] = classes[label]
    if wrong:
        own = not getattr(data.leaf.dataset, 'ann_file', '')
        order = (
            'Folders are numbered in the order of their sorted names: put '
            f'metainfo.classes in the order {shorten(sorted(classes), len(classes))}'
            if own
            else 'Correct the labels of the list, or the order of metainfo.classes'
        )
        pairs = (f'{folder} is {name}' for folder, name in wrong.items())
        yield Finding(
            True, f'folders get the name of another class: {shorten(pairs)}. {order}'
        )


def check_left_out(data: Observed) -> Iterator[Finding]:
    """Images in the folder of a dataset are not left out for their suffix."""
    dataset = data.leaf.dataset
    folder = getattr(dataset, 'data_prefix', {}).get('img_path')
    listed_by_folder = hasattr(dataset, 'img_suffix') or hasattr(dataset, 'extensions')
    if (
        not listed_by_folder
        or not folder
        or osp.isfile(getattr(dataset, 'ann_file', '') or '')
        or not data.scan.is_complete
        or getattr(dataset, '_indices', None) is not None
    ):
        return
    left_out = list_left_out(folder, data.scan.paths)
    if left_out:
        taken = getattr(dataset, 'img_suffix', None) or shorten(dataset.extensions)
        found = ', '.join(f'{n} with {suffix}' for suffix, n in left_out.items())
        yield Finding(
            False,
            f'{left_out.total()} images in {folder} are left out ({found}): '
            f'this dataset takes {taken}, {len(data.scan.paths)} images. Rename or '
            'convert them',
        )


def check_classes(parts: Sequence[Observed]) -> Iterator[Finding]:
    """All classes occur in training, and names keep their number elsewhere."""
    if any(any(check_label_range(data)) for data in parts):  # which says it better
        return
    train = [d for d in parts if d.leaf.is_train]
    others = [d for d in parts if not d.leaf.is_train]
    if train and all(d.scan.is_complete and d.scan.objects for d in train):
        classes = train[0].leaf.classes
        found = {label for d in train for label in d.scan.objects}
        validated = {label for d in others for label in d.scan.objects}
        missing = [i for i in range(len(classes)) if i not in found]
        if missing:
            where = shorten(f'{classes[i]}' for i in missing)
            also = [classes[i] for i in missing if i in validated]
            text = f'the training data has nothing of {where}'
            if also:
                text += f', of which the validation data has {shorten(also)}'
            yield Finding(False, text)
    yield from _check_folders_of_parts(train, others)


def _check_folders_of_parts(train, others):
    number: dict = {}
    for data in train:
        for folder, labels in data.scan.folders.items():
            if len(labels) == 1:
                number[osp.basename(folder)] = next(iter(labels))
    for data in others:
        for folder, labels in data.scan.folders.items():
            name = osp.basename(folder)
            label = next(iter(labels))
            if len(labels) == 1 < len(number) and number.get(name, label) != label:
                yield Finding(
                    True,
                    f'images in folders named {name} have the label {number[name]} in '
                    f'training and {label} in {data.leaf.key}: number the classes of '
                    'both alike',
                )
                return
