"""Agreements between parts of a config: values that must or should be equal.

Each rule is a function that yields problems, with the whole remedy, or appends to
the warnings. :func:`check_agreements` lists them.
"""

import math
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from mmengine.config import Config

from ra_mm.engine.config import (
    get_toolbox,
    get_type,
    get_value,
    iter_dicts,
    iter_unwrapped,
)

# Heads of mmseg that pool to 1x1 and then normalize.
POOLING_HEADS = {
    *('UPerHead', 'PSPHead', 'ASPPHead', 'DepthwiseSeparableASPPHead', 'APCHead'),
    *('EncHead', 'DMHead'),
}
# Means and standard deviations of grey and of coloured images.
NORMALIZE = {
    1: (('mean', '114.0'), ('std', '58.0')),
    3: (('mean', '123.675,116.28,103.53'), ('std', '58.395,57.12,57.375')),
}
# Transforms of mmseg that fill masks, with the value that they fill in by default.
FILLING = {'RandomRotate': 'seg_pad_val', 'RandomCrop': 'ignore_index'}


def check_agreements(cfg: Config, mode: str, warnings: list[str]) -> Iterator[str]:
    """Yield parts of a config that contradict each other; append to ``warnings``."""
    yield from _check_channels(cfg, mode)
    _warn_of_scales(cfg, warnings)
    if get_toolbox(cfg) == 'mmseg':
        yield from _check_ignore_index(cfg, mode)
        yield from _check_evaluation_pipelines(cfg, mode)
        yield from _check_palettes(cfg, mode)
    if mode == 'train':
        yield from _check_batch_norm(cfg)
        _warn_of_schedules(cfg, warnings)


def _iter_datasets(cfg, parts):
    """Yield (key, node, pipeline key, pipeline) of each dataset."""
    for part in parts:
        root = get_value(cfg, f'{part}_dataloader.dataset')
        if isinstance(root, dict):
            for key, node in iter_unwrapped(root, f'{part}_dataloader.dataset'):
                yield key, node, f'{key}.pipeline', node.get('pipeline') or []


def _parts(mode):
    return ('test',) if mode == 'test' else ('train', 'val')


def _find_step(pipeline, *names):
    for i, step in enumerate(pipeline):
        if isinstance(step, dict) and get_type(step) in names:
            return i, step
    return None, {}


# Channels


def get_channels(cfg: Config) -> int:
    """Return the number of channels of the images that a model takes."""
    channels = get_value(cfg, 'model.backbone.in_channels')
    return channels if isinstance(channels, int) else 3


def _check_channels(cfg, mode):
    """Images, the preprocessor and the backbone have the same number of channels."""
    if get_type(get_value(cfg, 'model.backbone')) is None:
        return
    processor = 'model.data_preprocessor'
    if not get_value(cfg, f'{processor}.mean'):
        processor = 'data_preprocessor'
    mean = get_value(cfg, f'{processor}.mean')
    expected = get_channels(cfg)
    swaps = [
        f'{processor}.{name}'
        for name in ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')
        if get_value(cfg, f'{processor}.{name}')
    ]
    for _, _, key, pipeline in _iter_datasets(cfg, _parts(mode)):
        i, step = _find_step(pipeline, 'LoadImageFromFile')
        color = str(step.get('color_type', 'color'))
        if i is None or color == 'unchanged':
            continue
        loaded = 1 if 'grayscale' in color else 3
        # One mean serves any number of channels.
        means = len(mean) if isinstance(mean, list | tuple) and len(mean) > 1 else None
        wrong_swaps = swaps if loaded == 1 and get_toolbox(cfg) == 'mmdet' else []
        if loaded == expected and means in (None, loaded) and not wrong_swaps:
            continue
        options = []
        if expected in (1, 3) and expected == (means or expected) != loaded:
            color = 'grayscale' if expected == 1 else 'color'
            options.append(f'{key}.{i}.color_type={color}')
        else:
            if expected != loaded:
                options.append(f'model.backbone.in_channels={loaded}')
            if means not in (None, loaded):
                options += [f'{processor}.{k}=[{v}]' for k, v in NORMALIZE[loaded]]
            options += [f'{swap}=False' for swap in wrong_swaps]
        yield (
            f'{key} loads images with {loaded} channel(s), {processor} is for '
            f'{means or "any number"} and model.backbone.in_channels is {expected}: '
            f'pass --cfg-options {" ".join(options)}'
        )


def _warn_of_scales(cfg, warnings):
    """Means and standard deviations are for pixels of 0 to 255."""
    for key in ('data_preprocessor', 'model.data_preprocessor'):
        mean, std = (get_value(cfg, f'{key}.{name}') or [0] for name in ('mean', 'std'))
        if 0 < max(mean) <= 1 and max(std) < 1:
            times = ','.join(f'{255 * value:g}' for value in mean)
            warnings.append(
                f'{key}.mean={list(mean)} and std={list(std)} are for pixels of 0 to 1, '
                f'but images have 0 to 255: pass --cfg-options {key}.mean=[{times}] '
                f'{key}.std=[{",".join(f"{255 * value:g}" for value in std)}]'
            )


# What is ignored


def _check_ignore_index(cfg, mode):
    """Dataset, heads, evaluator and the padding of images agree."""
    nodes = [node for _, node in iter_dicts(cfg.model, 'model')]
    if not any('num_classes' in node for node in nodes):
        return  # depth estimation, for one
    wanted = {
        node.get('ignore_index', 255)
        for _, node, _, _ in _iter_datasets(cfg, _parts(mode))
    }
    if len(wanted) != 1:
        if wanted:
            yield f'the datasets have different ignore_index: {sorted(wanted)}'
        return
    (value,) = wanted
    wrong = []
    if mode != 'test':
        for key, node in iter_dicts(cfg.model, 'model'):
            is_head = fnmatchcase(key, 'model.*_head') or fnmatchcase(
                key, 'model.*_head.[0-9]*'
            )
            if is_head and key.count('.') <= 2 and get_type(node):
                if node.get('ignore_index', 255) != value and 'num_classes' in node:
                    wrong.append(f'{key}.ignore_index={value}')
        key = 'model.data_preprocessor'
        if get_value(cfg, f'{key}.seg_pad_val', value) != value:
            wrong.append(f'{key}.seg_pad_val={value}')
        for _, _, key, pipeline in _iter_datasets(cfg, ['train']):
            for i, step in enumerate(pipeline):
                name = FILLING.get(get_type(step))
                if name and step.get(name, 255) != value:
                    wrong.append(f'{key}.{i}.{name}={value}')
                if get_type(step) == 'Pad' and step.get('pad_val', {}) != {}:
                    if get_value(step, 'pad_val.seg', 255) != value:
                        wrong.append(f'{key}.{i}.pad_val.seg={value}')
    for part in _parts(mode)[-1:]:
        for key, node in iter_dicts(cfg.get(f'{part}_evaluator'), f'{part}_evaluator'):
            if get_type(node) == 'IoUMetric' and node.get('ignore_index', 255) != value:
                wrong.append(f'{key}.ignore_index={value}')
    if wrong:
        yield (
            f'the datasets ignore the label {value}, other parts of the config another '
            f'one: pass --cfg-options {" ".join(wrong)}'
        )


def _check_evaluation_pipelines(cfg, mode):
    """Predictions have the size of the image, so masks must keep it."""
    resizing = ('Resize', 'RandomResize', 'ResizeToMultiple', 'Rerange')
    for key, _, name, pipeline in _iter_datasets(cfg, _parts(mode)[-1:]):
        at, _ = _find_step(pipeline, 'LoadAnnotations')
        resized, _ = _find_step(pipeline, *resizing)
        if at is not None and resized is not None and at < resized:
            yield (
                f'{name} resizes the masks too, but predictions have the size of the '
                f'image: put LoadAnnotations (step {at}) after '
                f'{get_type(pipeline[resized])} (step {resized})'
            )
        evaluator = f'{key.split("_")[0]}_evaluator'
        metrics = [
            get_type(node)
            for _, node in iter_dicts(cfg.get(evaluator), evaluator)
            if not node.get('format_only')
        ]
        types = {get_type(step) for step in pipeline if isinstance(step, dict)}
        if 'IoUMetric' in metrics and not any(
            'Load' in t and 'Ann' in t for t in types
        ):
            if 'PackSegInputs' in types:
                yield f'{name} has no LoadAnnotations, which IoUMetric needs'


def _check_palettes(cfg, mode):
    for key, node, _, _ in _iter_datasets(cfg, _parts(mode)):
        palette = get_value(node, 'metainfo.palette')
        classes = get_value(node, 'metainfo.classes')
        if palette and isinstance(classes, list | tuple):
            if len(palette) != len(classes):
                yield (
                    f'{key}.metainfo.palette has {len(palette)} colours for '
                    f'{len(classes)} classes: pass --cfg-options '
                    f'{key}.metainfo.palette=[]'
                )


# Training


def _check_batch_norm(cfg):
    """One image has one value a channel after pooling to 1x1."""
    steps = get_value(cfg, 'train_dataloader.batch_size')
    processes = int(os.environ.get('WORLD_SIZE', 1))
    for key, node in iter_dicts(cfg.model, 'model'):
        norm = get_value(node, 'norm_cfg.type')
        norm = getattr(norm, '__name__', norm)
        synced = norm == 'SyncBN' and processes > 1
        if (
            steps == 1
            and key.split('.')[1:2] in (['decode_head'], ['auxiliary_head'])
            and get_type(node) in POOLING_HEADS
            and norm in ('BN', 'BN2d', 'SyncBN')
            and not synced
        ):
            yield (
                f'train_dataloader.batch_size=1: {key} pools to 1x1, where batch norm '
                'needs two images a process; pass --cfg-options '
                'train_dataloader.batch_size=2'
            )
            return


def _warn_of_schedules(cfg, warnings):
    """The learning rate decays until the end of the training."""
    by_iter = get_value(cfg, 'train_cfg.max_iters')
    end = by_iter or get_value(cfg, 'train_cfg.max_epochs')
    schedulers, path = cfg.get('param_scheduler'), 'param_scheduler.{}'
    if isinstance(schedulers, dict) and get_type(schedulers):
        schedulers, path = [schedulers], 'param_scheduler'
    if not end or not isinstance(schedulers, list | tuple):
        return
    key, unit = ('max_iters', 'iteration') if by_iter else ('max_epochs', 'epoch')
    options, ends = [], []
    for i, node in enumerate(schedulers):
        if not isinstance(node, dict) or bool(node.get('by_epoch', True)) == bool(
            by_iter
        ):
            continue  # the length of an epoch is not known
        kind = str(get_type(node))
        if kind.startswith(('CosineAnnealing', 'Poly', 'OneCycle')):
            length = node.get('T_max') or node.get('total_steps')
            begin = node.get('begin', 0)
            stops = [node.get('end') or math.inf, begin + (length or math.inf)]
            if math.isfinite(min(stops)):
                ends.append(min(stops))
            options.append(f'{path.format(i)}.end={end}')
            if length:
                name = 'T_max' if node.get('T_max') else 'total_steps'
                options.append(f'{path.format(i)}.{name}={end - begin}')
        elif kind.startswith('MultiStep'):
            late = [m for m in node.get('milestones', []) if m > end]
            if late:
                warnings.append(
                    f'{path.format(i)}.milestones={node.milestones}: the training '
                    f'ends before, at train_cfg.{key}={end}'
                )
    # Some configs end a little earlier on purpose, at the lowest learning rate.
    last = max(ends, default=end)
    begins = [node.get('begin', 0) for node in schedulers if isinstance(node, dict)]
    is_continued = any(last <= begin < end for begin in begins)
    if not 0.9 * end <= last <= 1.1 * end and not is_continued:
        effect = 'stays at its last value' if last < end else 'has not decayed'
        when = f'from {unit} {last} on' if last < end else 'at the end'
        warnings.append(
            f'the learning rate {effect} {when}: the schedule ends after {last} '
            f'{unit}s, the training after {end} (train_cfg.{key}); pass --cfg-options '
            f'{" ".join(options)}'
        )
