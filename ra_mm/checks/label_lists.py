"""Lists of labels and class folders of mmpretrain."""

import os
import os.path as osp
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.files import find_missing
from ra_mm.checks.finding import Finding, error
from ra_mm.checks.labels import describe_bad_labels, is_custom
from ra_mm.engine.config import get_value
from ra_mm.errors import translate_errors

MAX_LISTED = 2000  # images that are looked for, of a list that may have a million


def check_label_lists(context: Context) -> Iterator[Finding]:
    """Each line of a list is an image and the number of its class."""
    # If the classes have no names, the labels are those of the model.
    number = get_value(context.cfg, 'model.head.num_classes') or 0
    for dataset in (entry.dataset for entry in context.datasets):
        path = dataset.ann_file
        if not is_custom(dataset) or not path:
            continue
        expected = (
            'expected an image, one space and the number of its class in each line'
        )
        with translate_errors(f'{path} cannot be read, {expected}'):
            samples = dataset.load_data_list()
        if not samples:
            yield error(f'{path} is empty: {expected}')
        labels = {sample['gt_label']: sample['img_path'] for sample in samples}
        count = len(dataset.metainfo.get('classes') or ()) or number
        bad, text = describe_bad_labels(labels, count)
        if bad:
            yield error(f'{path}: {text}; one of them is of {labels[bad[0]]}')
        paths = [s['img_path'] for s in samples[:: max(1, len(samples) // MAX_LISTED)]]
        yield from find_missing(paths, f'images of {path}')


def check_class_folders(context: Context) -> Iterator[Finding]:
    """Each folder is a class."""
    for dataset in (entry.dataset for entry in context.datasets):
        folder = dataset.data_prefix.get('img_path')
        if is_custom(dataset) and not dataset.ann_file and folder:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
            hidden = [osp.join(folder, n) for n in names if n.startswith(('.', '__'))]
            if hidden:
                paths = ' '.join(map(repr, hidden[:8]))
                text = f'{folder} has folders that would be taken for classes'
                yield error(f'{text}; remove them (rm -r {paths})')
