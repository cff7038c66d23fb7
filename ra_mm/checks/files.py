"""Data folders and files that a config names, and the images that lists name."""

import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from ra_mm.checks.annotations import iter_coco, iter_evaluator_files
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_value
from ra_mm.errors import translate_errors

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


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


def check_unlisted_images(context: Context) -> Iterator[Finding]:
    """The images in the folder of a COCO file are listed, there or in another file."""
    test = Context(context.cfg, 'test', coco_files=context.coco_files)
    listed, trained = set(), set()
    for entry, coco in (*iter_coco(context), *iter_coco(test)):
        folder = entry.dataset.data_prefix.get('img', '')
        paths = {osp.join(folder, name) for name in coco.file_names.values()}
        listed |= paths
        trained |= {osp.dirname(path) for path in paths if entry.is_train}
    for folder in filter(osp.isdir, sorted(trained)):
        found = (osp.join(folder, name) for name in os.listdir(folder))
        left_out = count_left_out(found, listed)
        if left_out:
            yield warning(
                f'{left_out.total()} images in {folder} are in no annotation file of '
                f'the config ({list_suffixes(left_out)}): they are left out'
            )


def count_left_out(paths: Iterable[str], taken: Iterable[str]) -> Counter:
    """Count the images among these files that are not taken, by suffix."""
    left_out: Counter = Counter()
    # Another file of the same name may be the mask beside an image.
    stems = {osp.splitext(osp.normpath(path))[0] for path in taken}
    for path in paths:
        stem, suffix = osp.splitext(osp.normpath(path))
        is_picture = suffix.lower() in PICTURES and osp.basename(path)[0] != '.'
        left_out[suffix] += is_picture and stem not in stems
    return +left_out


def list_suffixes(counts: Counter) -> str:
    return ', '.join(f'{n} with {suffix}' for suffix, n in counts.items())
