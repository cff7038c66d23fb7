"""Checks that the data of a config exists, and that its classes fit the model."""

import functools
import os
import os.path as osp
import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ra_mm.engine.config import get_value, iter_dicts, iter_unwrapped
from ra_mm.errors import UserError, translate_errors
from ra_mm.validation import shorten

from .boxes import check_annotations, check_validation_data
from .coco import check_coco, check_evaluator, check_training_data, is_coco, read_coco
from .label_lists import check_label_folders, check_label_lists

# The heads whose num_classes is the number of classes of the data.
HEAD = re.compile(
    r'model\.(roi_head\.)?(bbox_head|mask_head|decode_head|auxiliary_head|head)(\.\d+)?'
)


def check_datasets(cfg: Config, mode: str, warnings: list[str]) -> Iterator[str]:
    """Yield problems of the datasets and evaluators; append to ``warnings``."""
    parts = ['test'] if mode == 'test' else ['train', 'val']
    problems: list[str] = []  # of datasets and annotation files
    read = functools.cache(functools.partial(_read, problems))
    missing = defaultdict(list)  # config keys by missing path
    datasets = {}
    for part in parts:
        root = f'{part}_dataloader.dataset'
        if get_value(cfg, root) is None:
            if cfg.get(f'{part}_dataloader') is not None:
                yield f'{part}_dataloader has no dataset'
            continue
        for key, node in iter_unwrapped(get_value(cfg, root), root):
            dataset = _build_lazily(cfg, key, node, problems)
            if dataset is None:
                continue
            datasets[key] = dataset
            if getattr(dataset, 'download', False):
                continue  # it downloads its data itself
            absent = [
                entry for entry in _iter_paths(dataset) if not osp.exists(entry[1])
            ]
            for name, path in absent:
                missing[path].append(f'{key}.{name}')
            if not absent:
                yield from _check_dataset(dataset, key, node, part, read, warnings)
                number = get_value(cfg, 'model.head.num_classes')
                yield from check_label_lists(dataset, key, number)
                yield from check_label_folders(dataset, key)
    for key, path in _iter_evaluator_files(cfg, parts):
        if not osp.exists(path):
            missing[path].append(key)
        else:
            yield from check_evaluator(key, path, datasets, read)
            yield from check_validation_data(cfg, key, path, datasets, read)
    for path, keys in missing.items():
        where = '' if osp.isabs(path) else f' in {os.getcwd()}'
        options = ' '.join(f'{key}=PATH' for key in keys)
        yield (
            f'{path} does not exist{where}: link your data there, or pass '
            f'--cfg-options {options}'
        )
    yield from problems
    yield from _check_num_classes(cfg, datasets)


def _read(problems, path):
    try:
        return read_coco(path)
    except UserError as e:
        problems.append(str(e))


def _is_local(node):
    backend = get_value(node, 'backend_args.backend', 'local')
    return backend == 'local' and '://' not in str(node.get('data_root'))


def _build_lazily(cfg, key, node, problems) -> BaseDataset | None:
    """Build a dataset that knows its paths and classes, but has read nothing.

    Returns None where this is not possible. A key that is no argument is added to
    the problems; other mistakes are found when the dataset is built for the run.
    """
    try:
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            metainfo = dict(node.get('metainfo') or {})
            metainfo.pop('palette', None)  # a wrong one is a problem of its own
            new = dict(node, metainfo=metainfo, lazy_init=True, pipeline=[])
            built = registry.build(new)
    except Exception as e:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(e))
        if wrong and wrong[1] in node:
            problems.append(f'{key}: {e}')
        return None
    return built if isinstance(built, BaseDataset) and _is_local(node) else None


def _iter_paths(dataset):
    """Yield the name and value of each path of a dataset that must exist.

    If the root does not exist, it is the only one.
    """
    if dataset.data_root and not osp.exists(dataset.data_root):
        yield 'data_root', dataset.data_root
        return
    for name, folder in dataset.data_prefix.items():
        if folder:
            yield f'data_prefix.{name}', folder
    if dataset.ann_file:
        yield 'ann_file', dataset.ann_file


def _iter_evaluator_files(cfg, parts):
    for part in parts:
        for key, node in iter_dicts(cfg.get(f'{part}_evaluator'), f'{part}_evaluator'):
            path = node.get('ann_file')
            if isinstance(path, str) and _is_local(node) and '://' not in path:
                yield f'{key}.ann_file', path


def _check_dataset(
    dataset, key: str, node: dict, part: str, read: Callable, warnings: list[str]
) -> Iterator[str]:
    if is_coco(dataset):
        coco = read(dataset.ann_file)
        if coco is None:
            return
        yield from check_coco(dataset, key, coco, warnings)
        yield from check_annotations(dataset, key, coco, part == 'train', warnings)
        if part == 'train':
            mask = any(step.get('with_mask') for step in node.get('pipeline', []))
            yield from check_training_data(dataset.ann_file, coco, mask, warnings)
        folder = dataset.data_prefix.get('img', '')
        files = [osp.join(folder, name) for name in coco.file_names.values()]
        yield from _check_files(files, f'images of {dataset.ann_file}')
    elif hasattr(dataset, 'reduce_zero_label'):  # only mmseg's have it
        with translate_errors(f'{key} cannot be read'):
            samples = dataset.load_data_list()
        if not samples:
            folder = dataset.data_prefix['img_path']
            yield f'{folder} has no *{dataset.img_suffix}: change {key}.img_suffix'
        for name in ('img_path', 'seg_map_path'):
            files = [sample[name] for sample in samples if name in sample]
            yield from _check_files(files, f'{name} of {key}, by its suffixes')


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
    classes = {key: names for key, d in datasets.items() if (names := _get_classes(d))}
    if len(set(classes.values())) > 1:
        yield 'the datasets have different classes: ' + '; '.join(
            f'{key} has {shorten(names)}' for key, names in classes.items()
        )
    elif classes:
        key, names = next(iter(classes.items()))
        wrong = []
        for head, node in iter_dicts(cfg.model, 'model'):
            if HEAD.fullmatch(head):
                wrong += _list_wrong_numbers(head, node, len(names))
        n = get_value(cfg, 'data_preprocessor.num_classes', len(names))
        # Only mixing images uses the number of the preprocessor.
        if n != len(names) and (wrong or get_value(cfg, 'model.train_cfg.augments')):
            wrong.append(f'data_preprocessor.num_classes={len(names)}')
        if wrong:
            data = f'{key} has {len(names)} classes {shorten(names)}'
            yield f'{data}, the model another number; pass --cfg-options {" ".join(wrong)}'


def _get_classes(dataset):
    """The names of the classes that a model of this dataset predicts, if known."""
    # The box heads of panoptic models predict only the things.
    names = dataset.metainfo.get('thing_classes', dataset.metainfo.get('classes'))
    if names is None and getattr(dataset, 'with_label', False) and not dataset.ann_file:
        folder = dataset.img_prefix  # of class folders
        if osp.isdir(folder):
            names = sorted(
                entry.name
                for entry in os.scandir(folder)
                if entry.is_dir() and not entry.name.startswith(('.', '__'))
            )
    return tuple(names or ())


def _list_wrong_numbers(head, node, count):
    """List options that make the numbers of classes in a head equal to ``count``."""
    if node.get('num_classes', count) != count:
        yield f'{head}.num_classes={count}'
    if node.get('out_channels') == node.get('num_classes', 0) != count:
        yield f'{head}.out_channels={count}'
    for key, loss in iter_dicts(dict(node), head):
        weights = loss.get('class_weight')
        if not isinstance(weights, list | tuple):
            continue
        # The last one of mmdet's and Mask2Former's loss_cls is no class.
        others = list(weights[-1:]) if 'loss_cls' in key else []
        if len(weights) - len(others) != count and len(weights) != count:
            new = ','.join(str(w) for w in [1.0] * count + others)
            yield f'{key}.class_weight=[{new}]'
