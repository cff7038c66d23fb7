"""What can be known to go wrong before anything is built."""

import difflib
import importlib.util
import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_torchvision_models,
)

from ra_mm.engine.checkpoint_io import get_weights, read_checkpoint
from ra_mm.engine.config import iter_dicts
from ra_mm.engine.strict_load import format_mismatch, load_weights, strip_prefix
from ra_mm.errors import UserError, warn
from ra_mm.fileio import check_writable
from ra_mm.validation import integer, list_of, shorten

from .coco import is_left_out, is_segmentation, read_coco
from .config import wrong_values

# What RA backbones take the place of.
PLAIN = ('ResNet', 'ResNetV1c', 'ResNetV1d', 'ResNeXt', 'MobileNetV2')


def check(cfg: Config, mode: str, auto_resume: bool = False) -> None:
    """Look for everything that a run needs and does not have.

    The data, its classes and the checkpoints that the config names, and the
    machine's devices are looked at, and the values that all configs have; of
    several processes that torchrun started only the first of each machine
    looks. What is odd but no obstacle is a warning, such as annotations that
    the toolbox leaves out.

    Args:
        cfg (Config): The whole config, with command line options merged.
        mode (str): 'train' (looks at the data of validation too) or 'test'.
        auto_resume (bool): Whether ``load_from`` was to be found in the work
            directory. Defaults to False.

    Raises:
        ValueError: If anything is missing or wrong. The message lists it all,
            with what to do about it.
    """
    if int(os.environ.get('LOCAL_RANK', 0)) != 0:
        return
    if 'model' not in cfg:
        raise UserError(f'{cfg.filename} has no model: it is no whole config')
    problems = list(wrong_values(cfg, mode))
    if not problems:  # what follows relies on the values
        for oddity in _oddities(cfg, mode):
            warn(oddity)
        problems = [
            *_machine(cfg, mode),
            *_checkpoints(cfg, mode, auto_resume),
            *_data(cfg, mode),
        ]
    if not problems:  # do not fetch 100 MB to say that the data is missing
        problems = list(_downloads(cfg, mode))
    if not problems:
        check_writable('--work-dir', cfg.work_dir)
    if len(problems) > 1:
        problems = [
            f'{len(problems)} things are missing or wrong:',
            *(f'- {problem}' for problem in problems),
        ]
    if problems:
        raise UserError('\n'.join(problems))


# The machine


def _world_size(cfg):
    variable = dict(
        pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE'
    ).get(cfg.launcher)
    return int(os.environ.get(variable, 1)) if variable else 1


def _accumulated(cfg):
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def _machine(cfg, mode) -> Iterator[str]:
    if cfg.launcher == 'none' and int(os.environ.get('WORLD_SIZE', 1)) > 1:
        yield (
            f'torchrun started {os.environ["WORLD_SIZE"]} processes that '
            'know nothing of each other: pass --launcher pytorch'
        )
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        yield (
            '--launcher pytorch needs torchrun: torchrun '
            '--nproc_per_node=2 tools/... --launcher pytorch'
        )
    cuda = torch.cuda.is_available()
    local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if cuda and local_size > torch.cuda.device_count():
        yield (
            f'{local_size} processes for {torch.cuda.device_count()} '
            'GPU(s): start one process per GPU'
        )
    if not cuda and cfg.launcher in ('slurm', 'mpi'):
        yield (
            f'--launcher {cfg.launcher} needs GPUs; without, use torchrun '
            'and --launcher pytorch'
        )

    times, scaling = _accumulated(cfg), cfg.get('auto_scale_lr') or {}
    if mode == 'train' and scaling.get('enable') and times > 1:
        yield (
            f'--auto-scale-lr does not count accumulative_counts={times}: '
            'leave it out, and set optim_wrapper.optimizer.lr for '
            f'{scaling.get("base_batch_size")} images a step to what your '
            'steps need'
        )

    amp = (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper'
    if amp and mode == 'train' and get_device() == 'cpu':
        yield (
            'automatic mixed precision needs a GPU: leave out --amp, or '
            'pass --cfg-options optim_wrapper.type=OptimWrapper'
        )

    if cfg.get('default_scope') == 'mmdet':
        remedy = (
            'install an mmcv wheel for this torch and CUDA, or compile '
            'it with --no-build-isolation'
        )
        if importlib.util.find_spec('mmcv._ext') is None:
            yield f'mmcv was built without its operators: {remedy}'
        elif cuda:
            from mmcv.ops import get_compiling_cuda_version

            if get_compiling_cuda_version() == 'not available':
                yield (
                    'there is a GPU, but mmcv was built without CUDA '
                    f'operators: {remedy} where nvcc is, or hide the GPU '
                    "with CUDA_VISIBLE_DEVICES=''"
                )


def _oddities(cfg, mode) -> Iterator[str]:
    if not torch.cuda.is_available():
        yield f'no GPU: {mode}ing on the CPU'
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    if mode == 'train' and base and not scaling.get('enable'):
        size = cfg.get('train_dataloader', {}).get('batch_size', base)
        processes, times = _world_size(cfg), _accumulated(cfg)
        images = size * processes * times
        if images != base:
            yield (
                f'the learning rate was made for {base} images a step, '
                f'this run has {images} ({processes} process(es) with '
                f'{size} each'
                + (f', {times} times' if times > 1 else '')
                + '): '
                + (
                    'multiply it'
                    if times > 1
                    else 'pass --auto-scale-lr to multiply it'
                )
                + f' by {images / base:g}'
            )
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if (
        mode == 'train'
        and 'max_epochs' in cfg.train_cfg
        and saving.get('by_epoch') is False
    ):
        yield (
            'default_hooks.checkpoint.by_epoch=False in a training by '
            'epochs: a run that is resumed from within or at the end of an '
            "epoch repeats that epoch's iterations from its first on, so "
            'has more of them in all, also when it was at its end'
        )


# Checkpoints


def _sources(cfg, mode):
    """Yield each checkpoint that is to be loaded.

    With the place of its init_cfg, if it is in one, and another's option.
    """
    if cfg.get('load_from'):
        yield (
            cfg.load_from,
            None,
            (
                'name another one on the command line'
                if mode == 'test' or cfg.get('resume')
                else 'pass --cfg-options load_from=FILE'
            ),
        )
    if mode == 'train':  # testing does not initialise
        for key, node in iter_dicts(cfg.model, 'model'):
            name = 'pretrained'
            if str(node.get('type')).endswith('Pretrained'):
                name = 'checkpoint'
            if isinstance(node.get(name), str):
                yield node[name], key, f'pass --cfg-options {key}.{name}=FILE'


def _checkpoints(cfg, mode, auto_resume) -> Iterator[str]:
    if auto_resume and not cfg.get('load_from'):
        yield (
            f'--resume: there is no checkpoint in {cfg.work_dir} to resume '
            'from; train without --resume, or name the checkpoint '
            '(--resume FILE) or its folder (--work-dir DIR)'
        )
    for path, key, remedy in _sources(cfg, mode):
        if '://' in path:
            continue
        yield from _checkpoint(cfg, path, path, key, remedy)


def _checkpoint(cfg, path, file, key, remedy) -> Iterator[str]:
    try:
        checkpoint = read_checkpoint(file)
        nested = checkpoint.get('model')  # as Swin Transformers read it
        if key and isinstance(nested, Mapping) and not _is_ours_or_plain(cfg):
            checkpoint = nested
        weights = get_weights(checkpoint, file)
    except (OSError, UserError) as e:
        yield f'{e}; {remedy}'
        return
    if (
        cfg.get('resume')
        and path == cfg.load_from
        and not {'meta', 'message_hub', 'optimizer'} <= set(checkpoint)
    ):
        yield (
            f'{path} has weights alone and cannot be resumed from; to '
            f'start from them pass --cfg-options load_from={path}'
        )
    if key in ('model.backbone.init_cfg', 'model'):  # model.pretrained
        yield from _plain_backbone(cfg, path, weights, remedy)


def _is_ours_or_plain(cfg):
    scope, _, name = str(cfg.model.backbone.type).rpartition('.')
    return scope == 'ra_mm' or name in PLAIN


def _plain_backbone(cfg, path, weights, remedy) -> Iterator[str]:
    """Whether all of it gets a value: of a plain one mmengine only warns."""
    node = cfg.model.backbone
    if str(node.type).split('.')[-1] not in PLAIN or any(
        node.get(extra) for extra in ('dcn', 'plugins', 'conv_cfg')
    ):
        return  # those have weights of their own
    try:
        scope = cfg.get('default_scope', 'mmengine')
        with MODELS.switch_scope_and_registry(scope) as registry:
            backbone = registry.build(dict(node, init_cfg=None))
    except Exception:
        return  # it will be built once more, and then there is a message
    init = node.get('init_cfg')
    prefix = init.get('prefix') if isinstance(init, dict) else None
    found = load_weights(backbone, strip_prefix(weights, prefix))
    del found['unexpected']  # the classifier
    if any(found.values()):
        if not prefix and any(k.startswith('backbone.') for k in weights):
            remedy = 'pass --cfg-options model.backbone.init_cfg.prefix=backbone.'
        yield (
            f'{path} does not fit model.backbone, a {node.type}: '
            f'{format_mismatch(found)}; {remedy}'
        )


def _downloads(cfg, mode) -> Iterator[str]:
    """Fetch what mmengine would fetch, to where mmengine looks for it."""
    for path, key, remedy in _sources(cfg, mode):
        scheme, _, name = path.rpartition('://')
        url = path
        if scheme in ('torchvision', 'open-mmlab'):
            known = (
                get_torchvision_models()
                if scheme == 'torchvision'
                else get_external_models()
            )
            if scheme == 'open-mmlab':
                name = get_deprecated_model_names().get(name, name)
            if name not in known:
                similar = difflib.get_close_matches(name, known, 3, 0)
                yield (
                    f'{path}: {scheme} has no weights of this name, but '
                    f'for example {", ".join(similar)}; {remedy}'
                )
                continue
            url = known[name]
        if not url.startswith(('http://', 'https://')):
            continue
        folder = osp.join(torch.hub.get_dir(), 'checkpoints')
        file = osp.join(folder, osp.basename(urlparse(url).path))
        try:
            if not osp.exists(file):
                os.makedirs(folder, exist_ok=True)
                torch.hub.download_url_to_file(url, file)
        except (OSError, HTTPException) as e:  # URLError is an OSError
            yield (
                f'{url} cannot be downloaded ({e}): fetch it elsewhere and '
                f'put it at {file}, or {remedy}'
            )
            continue
        # mmengine would run the code of one.
        yield from _checkpoint(cfg, path, file, key, remedy)


# Data


def _data(cfg, mode) -> Iterator[str]:
    parts = ['train', 'val'] if mode == 'train' else ['test']
    parts = [p for p in parts if cfg.get(f'{p}_dataloader') is not None]

    absent = defaultdict(list)  # data_root: options that point elsewhere
    datasets = {}
    scope = cfg.get('default_scope', 'mmengine')
    with DATASETS.switch_scope_and_registry(scope) as registry:
        for part in parts:
            loader = cfg[f'{part}_dataloader']
            if 'dataset' not in loader:
                yield f'{part}_dataloader has no dataset'
                continue
            if loader.get('persistent_workers') and loader.get('num_workers', 0) == 0:
                yield (
                    f'{part}_dataloader: num_workers=0 needs --cfg-options '
                    f'{part}_dataloader.persistent_workers=False'
                )
            for key, node in _leaves(loader.dataset, f'{part}_dataloader.dataset'):
                try:
                    dataset = _build_lazily(registry, node)
                except Exception as e:  # whatever the dataset's class refuses
                    yield f'{key}: {type(e).__name__}: {e}'
                    continue
                if dataset is None:
                    continue
                datasets[key] = dataset
                root = node.get('data_root')
                if getattr(dataset, 'download', False):
                    pass  # it fetches itself
                elif root and not osp.isdir(root):
                    absent[root].append(f'{key}.data_root=DIR')
                else:
                    yield from _dataset(dataset, key, part == 'train', node)

    for key, path in _evaluator_files(cfg, parts):
        roots = [r for r in absent if path.startswith(osp.join(r, ''))]
        if roots:
            rest = path[len(roots[0]) :].lstrip('/')
            absent[roots[0]].append(f'{key}=DIR/{rest}')
        elif not osp.exists(path):
            yield f'{_missing(path)}; point elsewhere with {key}=FILE'
        else:
            yield from _evaluator(key, path, datasets)
    for root, options in absent.items():
        yield (
            f'{_missing(root, "folder")}; link yours there (ln -s DIR '
            f'{root.rstrip("/")}) or pass --cfg-options '
            f'{" ".join(options)}'
        )

    yield from _heads(cfg, datasets)
    yield from _top_k(cfg, parts)


def _missing(path, kind='file'):
    where = '' if osp.isabs(path) else f' (in {os.getcwd()})'
    return f'there is no {kind} {path}{where}'


def _is_local(node):
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    return backend == 'local' and '://' not in str(node.get('data_root'))


def _leaves(node, key):
    """The datasets without their wrappers."""
    if 'dataset' in node:
        yield from _leaves(node.dataset, f'{key}.dataset')
    elif 'datasets' in node:
        for i, child in enumerate(node.datasets):
            yield from _leaves(child, f'{key}.datasets.{i}')
    else:
        yield key, node


def _build_lazily(registry, node) -> BaseDataset | None:
    """The dataset, which knows its paths and classes but has read nothing."""
    cls = registry.get(node.type) if isinstance(node.type, str) else node.type
    if cls is None:
        raise ValueError(f'{registry.scope} has no {node.type!r}')
    if not (isinstance(cls, type) and issubclass(cls, BaseDataset) and _is_local(node)):
        return None
    return registry.build(dict(node, lazy_init=True, pipeline=[]))


def _dataset(dataset, key, train, node) -> Iterator[str]:
    """Problems of one dataset, in its own toolbox's layout."""
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, str):
        yield (
            f'{key}.metainfo.classes is the text {classes!r}, not a list '
            f'of names: write ({classes!r}, )'
        )
        return
    missing = False
    for name, folder in dataset.data_prefix.items():
        if folder and not osp.isdir(folder):
            missing = True
            yield (
                f'{_missing(folder, "folder")}; point elsewhere with '
                f'--cfg-options {key}.data_prefix.{name}=DIR'
            )
    if dataset.ann_file and not osp.exists(dataset.ann_file):
        missing = True
        yield (
            f'{_missing(dataset.ann_file)}; point elsewhere with '
            f'--cfg-options {key}.ann_file=FILE'
        )
    if missing:
        return
    if _is_coco(dataset):
        yield from _coco(dataset, key, train, node)
    elif hasattr(dataset, 'img_suffix'):
        yield from _segmentation(dataset, key)
    elif _has_class_folders(dataset):
        yield from _class_folders(dataset, key)


def _is_coco(dataset):
    """Whether it is read as COCO is, unlike LVIS and panoptic ones."""
    if not hasattr(dataset, 'COCOAPI'):
        return False
    from mmdet.datasets import CocoDataset

    return type(dataset).load_data_list is CocoDataset.load_data_list


def _coco(dataset, key, train, node) -> Iterator[str]:
    path, classes = dataset.ann_file, list(dataset.metainfo['classes'])
    coco, problem = read_coco(path)
    if problem:
        yield problem
        return
    if not coco['images']:
        yield f'{path} lists no images'
        return
    annotations = coco.get('annotations', [])
    if train:
        yield from _usable(path, coco['images'], annotations)

    names = {c['id']: c['name'] for c in coco['categories']}
    counts = defaultdict(int)
    for annotation in annotations:
        counts[annotation['category_id']] += 1
    both = f'the config has {shorten(classes)}, the file has {shorten(names.values())}'
    undefined = set(counts) - set(names)
    others = {
        names[i]: n for i, n in counts.items() if i in names and names[i] not in classes
    }
    ordered = [name for name in names.values() if name in classes]
    if others:
        warn(
            f'{path}: {sum(others.values())} annotations of other categories '
            f'are left out {shorten(others)}: {key}.metainfo.classes is '
            f'{shorten(classes)}'
        )
    if undefined:
        yield (
            f'{path}: {sum(counts[i] for i in undefined)} annotations are '
            f'of unknown categories: category_id {shorten(undefined)}, but '
            f'the file defines {shorten(names)}'
        )
    if set(classes) - set(names.values()):
        yield (
            f'{path}: annotations with unknown categories: {both}; make '
            f'{key}.metainfo.classes (and num_classes) fit the file'
        )
    elif ordered != classes:
        yield (
            f"{path}: mmdet numbers the classes in the file's order, but "
            f'{both}; put {key}.metainfo.classes in that order'
        )

    if any(step.get('with_mask') for step in node.get('pipeline', [])):
        boxes = sum(not (a.get('segmentation') or a.get('ignore')) for a in annotations)
        if boxes and train:
            yield (
                f'{path}: {boxes} of {len(annotations)} annotations have '
                'no segmentation, which this model trains on'
            )
        odd = [
            a
            for a in annotations
            if a.get('segmentation') and not is_segmentation(a['segmentation'])
        ]
        if odd and train:
            yield (
                f'{path}: {len(odd)} annotations have a segmentation that '
                'is neither polygons [[x1, y1, x2, y2, ...], ...] nor run '
                'lengths {size: [height, width], counts: ...}, the first '
                f'is {str(odd[0]["segmentation"])[:100]}'
            )
    folder = dataset.data_prefix.get('img', '')
    yield from _absent_files(
        [osp.join(folder, image['file_name']) for image in coco['images']],
        f'images of {path}',
    )


def _usable(path, images, annotations) -> Iterator[str]:
    """Whether anything is left to train on; a warning of what is not."""
    images = {image['id']: image for image in images}
    strangers = [a for a in annotations if a['image_id'] not in images]
    left_out = [
        a
        for a in annotations
        if a['image_id'] in images and is_left_out(a, images[a['image_id']])
    ]
    if strangers:
        warn(
            f'{path}: {len(strangers)} annotations are left out, they are of '
            'images that the file does not list: image_id '
            f'{shorten(a["image_id"] for a in strangers)}'
        )
    if left_out:
        warn(
            f'{path}: {len(left_out)} annotations are left out, their boxes '
            'are less than a pixel wide or high, without area or outside '
            f'their images: id {shorten(a["id"] for a in left_out)}'
        )
    gone = {a['id'] for a in strangers + left_out}
    if all(a['id'] in gone or a.get('iscrowd') or a.get('ignore') for a in annotations):
        yield f'{path} has no annotations to train on'


def _segmentation(dataset, key) -> Iterator[str]:
    samples = dataset.load_data_list()
    if not samples:
        yield (
            f'no *{dataset.img_suffix} in '
            f'{dataset.data_prefix["img_path"]}'
            + _other_suffix(dataset, key, 'img_path', 'img_suffix')
        )
    for name, suffix in (
        ('img_path', 'img_suffix'),
        ('seg_map_path', 'seg_map_suffix'),
    ):
        for problem in _absent_files(
            [s[name] for s in samples if name in s], f'{name} of {key}'
        ):
            yield problem + _other_suffix(dataset, key, name, suffix)


def _other_suffix(dataset, key, name, option):
    """An option with the suffix that files there do have, if none has ours."""
    with os.scandir(dataset.data_prefix[name]) as entries:
        found = Counter(osp.splitext(entry.name)[1] for entry in entries)
    found.pop('', None)  # folders
    if not found or getattr(dataset, option).endswith(tuple(found)):
        return ''
    return f'; pass --cfg-options {key}.{option}={max(found, key=found.get)}'


def _class_folders(dataset, key) -> Iterator[str]:
    folders = _folders(dataset)
    expected = dataset.metainfo.get('classes')
    if not folders:
        yield (
            f'{dataset.img_prefix} has no folders, one for each class '
            'expected; point elsewhere with --cfg-options '
            f'{key}.data_root=DIR'
        )
    elif expected is not None and len(expected) != len(folders):
        yield (
            f'{dataset.img_prefix} has {len(folders)} class folders, but '
            f'the config has {len(expected)} classes '
            f'{shorten(expected)}: fit {key}.metainfo.classes'
        )


def _has_class_folders(dataset):
    return (
        getattr(dataset, 'with_label', False)
        and not dataset.ann_file
        and osp.isdir(dataset.img_prefix)
    )


def _folders(dataset):
    with os.scandir(dataset.img_prefix) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _absent_files(paths, what) -> Iterator[str]:
    listed = {}
    absent = []
    for path in paths:
        folder, name = osp.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder) if osp.isdir(folder) else ())
        if name not in listed[folder]:
            absent.append(path)
    if absent:
        yield (
            f'{len(absent)} of {len(paths)} files are missing ({what}), '
            f'the first is {absent[0]}'
        )


def _evaluator_files(cfg, parts):
    for part in parts:
        for key, node in iter_dicts(cfg.get(f'{part}_evaluator'), f'{part}_evaluator'):
            path = node.get('ann_file')
            if isinstance(path, str) and _is_local(node) and '://' not in path:
                yield f'{key}.ann_file', path


def _evaluator(key, path, datasets) -> Iterator[str]:
    """The evaluator must know the images of its dataset."""
    part = key.split('_')[0]
    for name, dataset in datasets.items():
        if (
            not name.startswith(part)
            or not _is_coco(dataset)
            or not osp.isfile(dataset.ann_file)
            or osp.samefile(path, dataset.ann_file)
        ):
            continue
        coco, problem = read_coco(path)
        if problem:
            yield problem
            continue
        own, _ = read_coco(dataset.ann_file)
        if own and not _images(own) <= _images(coco):
            yield (
                f'{key} is {path}, which lacks images of '
                f'{name}.ann_file, {dataset.ann_file}: give both the same '
                'file'
            )


def _top_k(cfg, parts) -> Iterator[str]:
    """Accuracy among the first k needs k classes."""
    head = cfg.model.get('head')
    classes = head.get('num_classes') if isinstance(head, dict) else None
    for part in parts:
        for key, node in iter_dicts(cfg.get(f'{part}_evaluator'), f'{part}_evaluator'):
            k = node.get('topk', 1)
            most = max(k) if list_of(integer(1)).test(k) else k
            if (
                node.get('type') == 'Accuracy'
                and integer(1).test(most)
                and classes
                and most > classes
            ):
                yield (
                    f'{key}.topk={k}: the model has {classes} classes; '
                    f'pass --cfg-options {key}.topk=1'
                )


def _images(coco):
    """What tells images apart: ids alone begin with 1 in many a file."""
    return {(image['id'], osp.basename(image['file_name'])) for image in coco['images']}


def _heads(cfg, datasets) -> Iterator[str]:
    """Heads predict as many classes as the data has."""
    heads = []
    for key in (
        'bbox_head',
        'mask_head',
        'roi_head.bbox_head',
        'roi_head.mask_head',
        'decode_head',
        'auxiliary_head',
        'head',
    ):
        node = cfg.model
        for name in key.split('.'):
            node = (node.get(name) if isinstance(node, dict) else None) or {}
        nodes = node if isinstance(node, (list, tuple)) else [node]
        keys = (
            [f'model.{key}']
            if node is nodes[0]
            else [f'model.{key}.{i}' for i in range(len(nodes))]
        )
        heads += [
            (k, n.num_classes)
            for k, n in zip(keys, nodes)
            if isinstance(n, dict) and 'num_classes' in n
        ]
    classes = {}
    for key, dataset in datasets.items():
        # Of panoptic datasets the heads for boxes know the things alone.
        names = dataset.metainfo.get('thing_classes', dataset.metainfo.get('classes'))
        if names is None and _has_class_folders(dataset):
            names = _folders(dataset)
        if names is not None:
            classes[key] = tuple(names)
    if len(set(classes.values())) > 1:
        yield 'the datasets differ in their classes: ' + '; '.join(
            f'{key} has {shorten(names)}' for key, names in classes.items()
        )
        return
    for key, names in list(classes.items())[:1]:
        wrong = [k for k, n in heads if n != len(names)]
        if wrong:
            yield (
                f'{key} has {len(names)} classes {shorten(names)}, the model '
                'predicts another number; pass --cfg-options '
                + ' '.join(f'{k}.num_classes={len(names)}' for k in wrong)
            )
