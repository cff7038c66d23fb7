"""Labels, names of classes and folders, and how training and validation compare."""

import os
import os.path as osp
import sys
from collections.abc import Iterable, Iterator, Sequence

from mmengine.dataset import BaseDataset

from ra_mm.checks.files import count_left_out, list_suffixes
from ra_mm.checks.finding import Finding, error, warning
from ra_mm.checks.sample import Part
from ra_mm.validation import shorten


def describe_bad_labels(labels: Iterable[int], count: int) -> tuple[list[int], str]:
    """Return the labels that are no class, and a sentence about them."""
    bad = sorted(label for label in labels if not 0 <= label < count)
    hint = (
        '; they seem to begin at 1, so subtract 1'
        if min(labels, default=0) == 1
        else ''
    )
    text = f'the labels {shorten(bad)} are none of the {count} classes, which are '
    return bad if count else [], f'{text}numbered 0 to {count - 1}{hint}'


def is_custom(dataset: BaseDataset) -> bool:
    """Whether mmpretrain's CustomDataset reads the labels, from a list or folders."""
    # If it is one of mmpretrain's, mmpretrain has been imported.
    module = sys.modules.get('mmpretrain.datasets')
    return (
        module is not None
        and isinstance(dataset, module.CustomDataset)
        and type(dataset).load_data_list is module.CustomDataset.load_data_list
        and dataset.with_label
    )


def check_label_range(part: Part) -> Iterator[Finding]:
    """Labels are 0 to the number of classes - 1."""
    bad, text = describe_bad_labels(part.scan.objects, len(part.classes))
    if bad and not is_custom(part.dataset):  # whose list is checked line by line
        yield error(
            f'{sum(part.scan.objects[x] for x in bad)} labels are wrong: {text}'
        )


def check_folder_names(part: Part) -> Iterator[Finding]:
    """Folders that are named as a class have the number of that class."""
    classes = part.classes
    wrong = {}
    for folder, labels in part.scan.folders.items():
        name, label = osp.basename(folder), labels.most_common(1)[0][0]
        if name in classes and label < len(classes) and classes[label] != name:
            wrong[name] = classes[label]
    if wrong and not describe_bad_labels(part.scan.objects, len(classes))[0]:
        advice = (
            'Folders are numbered in the order of their sorted names: put '
            f'metainfo.classes in the order {shorten(sorted(classes), len(classes))}'
        )
        if getattr(part.dataset, 'ann_file', ''):
            advice = 'Correct the labels of the list, or the order of metainfo.classes'
        pairs = (f'{folder} is {name}' for folder, name in wrong.items())
        yield error(
            f'folders get the name of another class: {shorten(pairs)}. {advice}'
        )


def check_left_out(part: Part) -> Iterator[Finding]:
    """Images in the folder of a dataset are not left out for their suffix."""
    dataset = part.dataset
    folder = getattr(dataset, 'data_prefix', {}).get('img_path')
    suffixes = getattr(dataset, 'img_suffix', getattr(dataset, 'extensions', None))
    has_list = osp.isfile(getattr(dataset, 'ann_file', '') or '')
    is_part = getattr(dataset, '_indices', None) is not None
    if not folder or not suffixes or has_list or is_part or not part.scan.is_complete:
        return
    left_out = count_left_out(_walk(folder), part.scan.paths | part.scan.masks)
    if left_out:
        taken = suffixes if isinstance(suffixes, str) else shorten(suffixes)
        yield warning(
            f'{left_out.total()} images in {folder} are left out ({list_suffixes(left_out)}): this '
            f'dataset takes {taken}, {len(part.scan.paths)} images. Rename, '
            'convert or move them'
        )


def _walk(folder):
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (osp.join(parent, name) for name in names)


def check_overlap(parts: Sequence[Part]) -> Iterator[Finding]:
    """Images to validate with are not trained on."""
    trained = {path for p in parts if p.is_train for path in p.scan.paths if path}
    for part in parts:
        both = part.scan.paths & trained
        if both and not part.is_train:
            yield warning(
                f'{part.key}: {len(both)} of {len(part.scan.paths)} images are trained '
                f'on too, such as {min(both)}'
            )


def check_missing_classes(parts: Sequence[Part]) -> Iterator[Finding]:
    """All classes occur in training."""
    train = [p for p in parts if p.is_train]
    if not train or not all(p.scan.is_complete and p.scan.objects for p in train):
        return
    classes = train[0].classes
    found = {label for p in train for label in p.scan.objects}
    validated = {label for p in parts if not p.is_train for label in p.scan.objects}
    missing = [i for i in range(len(classes)) if i not in found]
    if missing and max(found) < len(classes):
        text = (
            f'the training data has nothing of {shorten(classes[i] for i in missing)}'
        )
        also = [classes[i] for i in missing if i in validated]
        if also:
            text += f', of which the validation data has {shorten(also)}'
        yield warning(text)
