"""Data folders and files that a config names, and the images that lists name."""

import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.errors import translate_errors

PICTURES = (
    '.jpg .jpeg .jfif .png .bmp .gif .tif .tiff .webp .ppm .pgm .jp2 .avif .heic'
).split()


def check_paths(context: Context) -> Iterator[Finding]:
    """All folders and annotation files of a config exist."""
    missing = defaultdict(list)  # config keys by path
    for entry in context.all_datasets:
        for name, path in entry.missing_paths.items():
            missing[path].append(f'{entry.key}.{name}')
    for key, _, path in context.evaluators_with_files:
        if not osp.exists(path):
            missing[path].append(f'{key}.ann_file')
    for path, keys in missing.items():
        where = '' if osp.isabs(path) else f' in {os.getcwd()}'
        options = remedy(dict.fromkeys(keys, 'PATH'))
        yield error(f'{path} does not exist{where}: link your data there, or {options}')


def _list_paths(entry, coco):
    folder = entry.dataset.data_prefix.get('img', '')
    return [osp.join(folder, name) for name in coco.file_names.values()]


def check_listed_images(context: Context) -> Iterator[Finding]:
    """The images of COCO files and the masks of images exist."""
    for entry, coco in context.coco:
        yield from find_missing(_list_paths(entry, coco), f'images of {coco.path}')
    for entry in context.datasets:
        if not hasattr(entry.dataset, 'reduce_zero_label'):  # only mmseg's have it
            continue
        with translate_errors(f'{entry.key} cannot be read'):
            samples = entry.dataset.load_data_list()
        if not samples:
            found = f'{entry.dataset.data_prefix["img_path"]} has no image'
            suffix = f'{entry.key}.img_suffix={entry.dataset.img_suffix}'
            yield error(f'{found} that ends in {suffix}: change it')
        for name in ('img_path', 'seg_map_path'):
            paths = [sample[name] for sample in samples if name in sample]
            yield from find_missing(paths, f'{name} of {entry.key}, by its suffixes')


def find_missing(paths: list[str], what: str) -> Iterator[Finding]:
    """Yield an error if any of these files is missing, listing each folder once."""
    folders = {osp.dirname(path) for path in paths}
    listed = {f: set(os.listdir(f)) if osp.isdir(f) else set() for f in folders}
    missing = [p for p in paths if osp.basename(p) not in listed[osp.dirname(p)]]
    if missing:
        count = f'{len(missing)} of {len(paths)} files are missing'
        yield error(f'{count} ({what}), the first is {missing[0]}')


def check_unlisted_images(context: Context) -> Iterator[Finding]:
    """The images in the folder of a COCO file are listed, there or in another file."""
    others = Context(context.cfg, 'test', files=context.files).coco
    listed = {p for found in (*context.coco, *others) for p in _list_paths(*found)}
    trained = [_list_paths(*f) for f in context.coco if f[0].key.startswith('train')]
    for folder in sorted({osp.dirname(path) for paths in trained for path in paths}):
        names = os.listdir(folder) if osp.isdir(folder) else ()
        left_out = describe_left_out((osp.join(folder, n) for n in names), listed)
        if left_out:
            text = f'{left_out} are left out: no annotation file of the config lists'
            yield warning(f'{text} these images in {folder}')


def describe_left_out(paths: Iterable[str], taken: Iterable[str]) -> str:
    """Count the images among these files that are not taken, by suffix."""
    left_out: Counter = Counter()
    # Another file of the same name may be the mask beside an image.
    stems = {osp.splitext(osp.normpath(path))[0] for path in taken}
    for path in paths:
        stem, suffix = osp.splitext(osp.normpath(path))
        is_picture = suffix.lower() in PICTURES and osp.basename(path)[0] != '.'
        left_out[suffix] += is_picture and stem not in stems
    return ', '.join(f'{n} with {suffix}' for suffix, n in (+left_out).items())
