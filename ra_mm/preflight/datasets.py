"""Checks that the data of a config exists, and that its classes fit the model."""

import functools
import os
import os.path as osp
import re
import sys
from collections import defaultdict
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ra_mm.engine.config import iter_dicts
from ra_mm.errors import UserError, translate_errors
from ra_mm.validation import shorten

from .coco import check_coco, check_evaluator, check_training_data, is_coco, read_coco
from .config import get_value

# The heads whose num_classes is the number of classes of the data.
HEAD = re.compile(
    r'model\.(roi_head\.)?(bbox_head|mask_head|decode_head|auxiliary_head|head)(\.\d+)?'
)


def check_datasets(cfg: Config, mode: str, warnings: list[str]) -> Iterator[str]:
    """Yield problems of the datasets and evaluators; append to ``warnings``."""
    parts = ['train', 'val'] if mode == 'train' else ['test']
    parts = [p for p in parts if cfg.get(f'{p}_dataloader') is not None]
    problems = []  # of annotation files
    read = functools.cache(functools.partial(_read, problems))
    missing_roots = defaultdict(list)  # options that name another one
    datasets = {}
    for part in parts:
        root_node = get_value(cfg, f'{part}_dataloader.dataset')
        if root_node is None:
            yield f'{part}_dataloader has no dataset'
            continue
        for key, node in _iter_unwrapped(root_node, f'{part}_dataloader.dataset'):
            dataset = _build_lazily(cfg, node)
            if dataset is None:
                continue
            datasets[key] = dataset
            root = node.get('data_root')
            if getattr(dataset, 'download', False):
                continue  # it downloads its data itself
            if root and not osp.isdir(root):
                missing_roots[root].append(f'{key}.data_root=DIR')
            else:
                is_train = part == 'train'
                yield from _check_dataset(dataset, key, node, is_train, read, warnings)

    for key, path in _iter_evaluator_files(cfg, parts):
        root = next((r for r in missing_roots if path.startswith(osp.join(r, ''))), '')
        if root:
            missing_roots[root].append(f'{key}=DIR/{path[len(root) :].lstrip("/")}')
        elif not osp.exists(path):
            yield f'{_missing("file", path)}; pass --cfg-options {key}=FILE'
        else:
            yield from check_evaluator(key, path, datasets, read)
    for root, options in missing_roots.items():
        link = root.rstrip('/')
        yield (
            f'{_missing("folder", root)}; link yours there (mkdir -p '
            f'{osp.dirname(link) or "."} && ln -s DIR {link}, with an absolute DIR) or '
            f'pass --cfg-options {" ".join(options)}'
        )
    yield from problems
    yield from _check_num_classes(cfg, datasets)


def _read(problems, path):
    try:
        return read_coco(path)
    except UserError as e:
        problems.append(str(e))


def _missing(kind, path):
    where = '' if osp.isabs(path) else f' (in {os.getcwd()})'
    return f'there is no {kind} {path}{where}'


def _is_local(node):
    backend = get_value(node, 'backend_args.backend', 'local')
    return backend == 'local' and '://' not in str(node.get('data_root'))


def _iter_unwrapped(node, key):
    """Yield the key and config of each dataset below wrappers such as RepeatDataset."""
    if 'dataset' in node:
        yield from _iter_unwrapped(node.dataset, f'{key}.dataset')
    elif 'datasets' in node:
        for i, child in enumerate(node.datasets):
            yield from _iter_unwrapped(child, f'{key}.datasets.{i}')
    else:
        yield key, node


def _iter_evaluator_files(cfg, parts):
    for part in parts:
        for key, node in iter_dicts(cfg.get(f'{part}_evaluator'), f'{part}_evaluator'):
            path = node.get('ann_file')
            if isinstance(path, str) and _is_local(node) and '://' not in path:
                yield f'{key}.ann_file', path


def _build_lazily(cfg, node) -> BaseDataset | None:
    """Build a dataset that knows its paths and classes, but has read nothing.

    Returns None where this is not possible. If that is a mistake, building the
    dataset for the run will say so.
    """
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        cls = node.type
        if isinstance(cls, str):
            cls = registry.get(cls)
        if not (isinstance(cls, type) and issubclass(cls, BaseDataset)):
            return None
        try:
            built = registry.build(dict(node, lazy_init=True, pipeline=[]))
        except Exception:
            return None
    return built if _is_local(node) else None


def _check_dataset(dataset, key, node, is_train, read, warnings):
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, str):
        yield f'{key}.metainfo.classes={classes!r}: write ({classes!r}, ) for one class'
        return
    missing = [
        f'{_missing("folder", folder)}; pass --cfg-options {key}.data_prefix.{name}=DIR'
        for name, folder in dataset.data_prefix.items()
        if folder and not osp.isdir(folder)
    ]
    file = dataset.ann_file
    if file and not osp.exists(file):
        option = f'{key}.ann_file=FILE'
        missing.append(f'{_missing("file", file)}; pass --cfg-options {option}')
    if missing:
        yield from missing
    elif is_coco(dataset):
        coco = read(file)
        if coco is None:
            return
        yield from check_coco(dataset, key, coco, warnings)
        if is_train:
            mask = any(step.get('with_mask') for step in node.get('pipeline', []))
            yield from check_training_data(file, coco, mask, warnings)
        folder = dataset.data_prefix.get('img', '')
        files = [osp.join(folder, name) for name in coco.file_names.values()]
        yield from _check_files(files, f'images of {file}')
    elif _is_segmentation(dataset):
        yield from _check_segmentation(dataset, key)


def _is_segmentation(dataset):
    # If it is one of mmseg's, mmseg has been imported.
    mmseg = sys.modules.get('mmseg.datasets')
    return mmseg is not None and isinstance(dataset, mmseg.BaseSegDataset)


def _check_segmentation(dataset, key):
    with translate_errors(f'{key} cannot be read'):
        samples = dataset.load_data_list()
    if not samples:
        folder, suffix = dataset.data_prefix['img_path'], dataset.img_suffix
        yield f'{folder} has no *{suffix}; pass --cfg-options {key}.img_suffix=SUFFIX'
    for name in ('img', 'seg_map'):
        files = [s[f'{name}_path'] for s in samples if f'{name}_path' in s]
        for problem in _check_files(files, f'{name}_path of {key}'):
            option = f'--cfg-options {key}.{name}_suffix=SUFFIX'
            yield f'{problem}; if all have another suffix, pass {option}'


def _has_class_folders(dataset):
    return (
        getattr(dataset, 'with_label', False)
        and not dataset.ann_file
        and osp.isdir(dataset.img_prefix)
    )


def _list_folders(dataset):
    with os.scandir(dataset.img_prefix) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _check_files(paths, what):
    listed = {
        folder: set(os.listdir(folder)) if osp.isdir(folder) else set()
        for folder in {osp.dirname(path) for path in paths}
    }
    missing = [p for p in paths if osp.basename(p) not in listed[osp.dirname(p)]]
    if missing:
        count = f'{len(missing)} of {len(paths)} files are missing'
        yield f'{count} ({what}), the first is {missing[0]}'


def _check_num_classes(cfg, datasets):
    classes = {}
    for key, dataset in datasets.items():
        # The box heads of panoptic models predict only the things.
        names = dataset.metainfo.get('thing_classes', dataset.metainfo.get('classes'))
        if names is None and _has_class_folders(dataset):
            names = _list_folders(dataset)
        if names is not None:
            classes[key] = tuple(names)
    if len(set(classes.values())) > 1:
        yield 'the datasets have different classes: ' + '; '.join(
            f'{key} has {shorten(names)}' for key, names in classes.items()
        )
    elif classes:
        key, names = next(iter(classes.items()))
        wrong = [
            f'{head}.num_classes={len(names)}'
            for head, node in iter_dicts(cfg.model, 'model')
            if HEAD.fullmatch(head)
            and node.get('num_classes', len(names)) != len(names)
        ]
        if wrong:
            data = f'{key} has {len(names)} classes {shorten(names)}'
            yield f'{data}, the model another number; pass --cfg-options {" ".join(wrong)}'
