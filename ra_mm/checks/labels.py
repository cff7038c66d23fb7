"""Labels and their lists, names of classes and folders, training against validation."""

import os
import os.path as osp
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

from ra_mm.checks.context import Context
from ra_mm.checks.files import describe_left_out, find_missing
from ra_mm.checks.finding import Finding, error, warning
from ra_mm.checks.sample import Part
from ra_mm.engine.config import get_value, reads_as
from ra_mm.errors import translate_errors
from ra_mm.validation import shorten

NUMBER = re.compile(r'[_-]\d+(?=\.\w+$)')
SIDES = ('width', 'height')
MAX_LISTED = 2000  # images that are looked for, of a list that may have a million


def describe_bad_labels(labels: Iterable[int], count: int) -> tuple[list[int], str]:
    """Return the labels that are no class, and a sentence about them."""
    bad = sorted(label for label in labels if not 0 <= label < count)
    begins_at_1 = min(labels, default=0) == 1
    hint = '; they seem to begin at 1, so subtract 1' if begins_at_1 else ''
    text = f'the labels {shorten(bad)} are none of the {count} classes, which are '
    return bad if count else [], f'{text}numbered 0 to {count - 1}{hint}'


def is_custom(dataset: Any) -> bool:
    """Whether mmpretrain's CustomDataset reads the labels, from a list or folders."""
    method = 'mmpretrain.datasets.custom.CustomDataset.load_data_list'
    return reads_as(dataset, method) and bool(dataset.with_label)


def check_label_lists(context: Context) -> Iterator[Finding]:
    """Each line of a list is an image and the number of its class."""
    # If the classes have no names, the labels are those of the model.
    number = get_value(context.cfg, 'model.head.num_classes') or 0
    for dataset in (entry.dataset for entry in context.datasets):
        path = dataset.ann_file
        if not is_custom(dataset) or not path:
            continue
        expected = 'expected an image, a space and the number of its class in each line'
        with translate_errors(f'{path} cannot be read, {expected}'):
            samples = dataset.load_data_list()
        if not samples:
            yield error(f'{path} is empty: {expected}')
        labels = {sample['gt_label']: sample['img_path'] for sample in samples}
        pairs = {(s['img_path'], s['gt_label']) for s in samples}
        named = Counter(image for image, _ in pairs)
        if twice := sorted(image for image, n in named.items() if n > 1):
            yield warning(f'{path}: {len(twice)} images have two classes: {twice[0]}')
        count = len(dataset.metainfo.get('classes') or ()) or number
        bad, text = describe_bad_labels(labels, count)
        if bad:
            yield error(f'{path}: {text}; one of them is of {labels[bad[0]]}')
        paths = [s['img_path'] for s in samples[:: max(1, len(samples) // MAX_LISTED)]]
        yield from find_missing(paths, f'images of {path}')


def check_xml_names(context: Context) -> Iterator[Finding]:
    """The objects in files of PASCAL VOC have the names of classes."""
    datasets = (entry.dataset for entry in context.datasets)
    for dataset in (d for d in datasets if hasattr(d, 'ann_subdir')):
        folder, names = Path(dataset.sub_data_root, dataset.ann_subdir), []
        filters = {} if dataset.test_mode else dataset.filter_cfg or {}
        minimum, small = filters.get('min_size', 0), []
        for line in Path(dataset.ann_file).read_text().splitlines():
            with translate_errors(f'{line}.xml in {folder} cannot be read'):
                root = parse(folder / f'{line}.xml').getroot()
                sizes = [int(root.findtext(f'size/{x}', minimum)) for x in SIDES]
            names += [element.findtext('name') for element in root.iter('object')]
            small += [line] * (min(sizes) < minimum)
        if small:
            text = f'{len(small)} images are left out, of a <size> below min_size={minimum}'
            yield warning(f'{dataset.ann_file}: {text}: {shorten(small)}')
        classes = dataset.metainfo['classes']
        if others := [name for name in names if name not in classes]:
            text = f'{len(others)} objects {shorten(sorted({*others}))} are left out'
            yield warning(f'{dataset.ann_file}: {text}; classes are {shorten(classes)}')


def check_class_folders(context: Context) -> Iterator[Finding]:
    """Each folder is a class."""
    for dataset in (entry.dataset for entry in context.datasets):
        if is_custom(dataset) and not dataset.ann_file:
            folder = Path(dataset.img_prefix)
            found = sorted([*folder.glob('.*'), *folder.glob('__*')])
            if hidden := [str(path) for path in found if path.is_dir()]:
                paths = ' '.join(map(repr, hidden[:8]))
                text = f'{folder} has folders that would be taken for classes'
                yield error(f'{text}; remove them (rm -r {paths})')


def check_label_range(part: Part) -> Iterator[Finding]:
    """Labels are 0 to the number of classes - 1."""
    bad, text = describe_bad_labels(part.scan.objects, len(part.classes))
    if bad and not is_custom(part.dataset):  # whose list is checked as a whole
        n = sum(part.scan.objects[label] for label in bad)
        yield error(f'{n} labels are wrong: {text}')
    n, lists = len(part.classes), part.scan.lists
    if n > 1 and lists and all(len(x) == n and {*x} <= {0, 1} for x in lists):
        yield error(f'gt_label is one-hot, {[*min(lists)]}: list numbers of classes')


def check_folder_names(part: Part) -> Iterator[Finding]:
    """Folders that are named as a class have the number of that class."""
    classes = part.classes
    wrong = []
    for folder, labels in part.scan.folders.items():
        name, label = osp.basename(folder), labels.most_common(1)[0][0]
        if name in classes and label < len(classes) and classes[label] != name:
            wrong.append(f'{name} is {classes[label]}')
    if wrong and not describe_bad_labels(part.scan.objects, len(classes))[0]:
        # Folders are numbered in the order of their sorted names.
        advice = f'metainfo.classes has to be {shorten(sorted(classes), len(classes))}'
        if getattr(part.dataset, 'ann_file', ''):
            advice = 'correct the labels of the list, or the order of metainfo.classes'
        text = f'folders have the name of another class: {shorten(wrong)}'
        yield error(f'{text}: {advice}')


def check_left_out(part: Part) -> Iterator[Finding]:
    """Images and masks in the folders of a dataset are not left out."""
    dataset, scan = part.dataset, part.scan
    folder = getattr(dataset, 'data_prefix', {}).get('img_path')
    suffixes = getattr(dataset, 'img_suffix', getattr(dataset, 'extensions', None))
    has_list = osp.isfile(getattr(dataset, 'ann_file', '') or '')
    is_fold = hasattr(part.root, 'num_splits')  # of mmpretrain's KFoldDataset
    is_part = is_fold or getattr(dataset, '_indices', None) is not None
    if not folder or not suffixes or has_list or is_part or not scan.is_complete:
        return
    left_out = describe_left_out(_walk(folder), scan.paths | scan.masks)
    if left_out:
        text = f'{left_out} are left out in {folder}: this dataset takes {suffixes}'
        yield warning(f'{text}, {len(scan.paths)} images; rename, convert or move them')
    suffix = getattr(dataset, 'seg_map_suffix', '')
    used = {*map(osp.normpath, scan.masks)}
    paths = _walk(dataset.data_prefix.get('seg_map_path') or '')
    # Beside x_mask.png, x_mask_1.png is one of another object.
    masks = {p for p in paths if p.endswith(suffix) or NUMBER.sub('', p) in used} - used
    if masks:
        yield warning(f'{len(masks)} masks have no image, such as {min(masks)}')


def _walk(folder):
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (osp.normpath(osp.join(parent, name)) for name in names)


def _size(path):
    return osp.getsize(path) if osp.isfile(path) else path


def _content(path):
    return hash(Path(path).read_bytes()) if osp.isfile(path) else path


def _find_copies(trained, others):
    """Return the others that are trained images: links, or copies of the same name."""
    for kind in (osp.basename, _size, _content):  # the fewest files are read
        keys = {path: (osp.basename(path), kind(path)) for path in trained | others}
        both = {keys[path] for path in trained} & {keys[path] for path in others}
        trained, others = ({p for p in s if keys[p] in both} for s in (trained, others))
    return others


def _number_folders(parts):
    """Return the label of each name of folders whose images all have one label."""
    labels = defaultdict(set)
    for folder, found in chain(*(part.scan.folders.items() for part in parts)):
        labels[osp.basename(folder)].update(found)
    return {name: min(found) for name, found in labels.items() if len(found) == 1}


def check_splits(parts: Sequence[Part]) -> Iterator[Finding]:
    """All classes occur in both, and no image does."""
    train, others = ([p for p in parts if p.is_train == t] for t in (True, False))
    trained = {path for part in train for path in part.scan.paths if path}
    for part in others:
        same = part.scan.paths & trained
        copies = _find_copies(trained - same, part.scan.paths - same - {''})
        if both := same | copies:
            n = f'{len(both)} of {len(part.scan.paths)} images'
            yield warning(f'{part.key}: {n} are trained on too, such as {min(both)}')
    numbers, other = _number_folders(train), _number_folders(others)
    if wrong := sorted(k for k in numbers.keys() & other if numbers[k] != other[k]):
        text = 'folders have one label in the training and another in the validation'
        pairs = shorten(f'{name}: {numbers[name]} and {other[name]}' for name in wrong)
        yield warning(f'{text} {pairs}: number them alike')
    for what, own in (('training', train), ('validation', others)):
        if not own or not all(p.scan.is_complete and p.scan.objects for p in own):
            continue
        found = {label for part in own for label in part.scan.objects}
        names = own[0].classes
        missing = [name for i, name in enumerate(names) if i not in found]
        if missing and max(found) < len(names):
            yield warning(f'the {what} data has nothing of {shorten(missing)}')
