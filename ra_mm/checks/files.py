"""Data folders and files that a config names, and the images that lists name."""

import os
import os.path as osp
from collections import defaultdict
from collections.abc import Iterator

from ra_mm.checks.annotations import iter_coco, iter_evaluator_files
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy
from ra_mm.engine.config import get_value
from ra_mm.errors import translate_errors


def check_paths(context: Context) -> Iterator[Finding]:
    """All folders and annotation files of a config exist."""
    missing = defaultdict(list)  # config keys by path
    for part in context.parts:
        loader = context.cfg.get(f'{part}_dataloader')
        if loader is not None and get_value(loader, 'dataset') is None:
            yield error(f'{part}_dataloader has no dataset')
    for entry in context.all_datasets:
        for name, path in entry.missing_paths.items():
            missing[path].append(f'{entry.key}.{name}')
    for key, _, path in iter_evaluator_files(context):
        if not osp.exists(path):
            missing[path].append(f'{key}.ann_file')
    for path, keys in missing.items():
        where = '' if osp.isabs(path) else f' in {os.getcwd()}'
        options = remedy(dict.fromkeys(keys, 'PATH'))
        yield error(f'{path} does not exist{where}: link your data there, or {options}')


def check_listed_images(context: Context) -> Iterator[Finding]:
    """The images of COCO files and the masks of images exist."""
    for entry, coco in iter_coco(context):
        folder = entry.dataset.data_prefix.get('img', '')
        paths = [osp.join(folder, name) for name in coco.file_names.values()]
        yield from find_missing(paths, f'images of {coco.path}')
    for entry in context.datasets:
        if not hasattr(entry.dataset, 'reduce_zero_label'):  # only mmseg's have it
            continue
        with translate_errors(f'{entry.key} cannot be read'):
            samples = entry.dataset.load_data_list()
        if not samples:
            folder, suffix = (
                entry.dataset.data_prefix['img_path'],
                entry.dataset.img_suffix,
            )
            yield error(f'{folder} has no *{suffix}: change {entry.key}.img_suffix')
        for name in ('img_path', 'seg_map_path'):
            paths = [sample[name] for sample in samples if name in sample]
            yield from find_missing(paths, f'{name} of {entry.key}, by its suffixes')


def find_missing(paths: list[str], what: str) -> Iterator[Finding]:
    """Yield an error if any of these files is missing, listing each folder once."""
    listed = {
        folder: set(os.listdir(folder)) if osp.isdir(folder) else set()
        for folder in {osp.dirname(path) for path in paths}
    }
    missing = [p for p in paths if osp.basename(p) not in listed[osp.dirname(p)]]
    if missing:
        count = f'{len(missing)} of {len(paths)} files are missing'
        yield error(f'{count} ({what}), the first is {missing[0]}')
