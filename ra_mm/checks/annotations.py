"""COCO annotation files, against the classes of the config, the model and the metric."""

import math
import os.path as osp
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ra_mm.checks.coco import BAD_POLYGON
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_value, iter_dicts
from ra_mm.validation import shorten


def check_categories(context: Context) -> Iterator[Finding]:
    """A file can be read; its categories are the classes of its dataset, in order."""
    files = context.all_coco
    yield from (error(text) for text in context.unreadable)
    for entry, coco in files:
        path, names, counts = coco.path, coco.categories, Counter(coco.category_of)
        key = f'{entry.key}.metainfo.classes'
        classes = entry.dataset.metainfo['classes']
        unknown = [id for id in counts if id not in names]
        if unknown:
            n = sum(counts[id] for id in unknown)
            text = f'{path}: {n} annotations have a category_id {shorten(unknown)} that'
            yield error(f'{text} its categories {shorten(names)} lack')
        others = [id for id in counts if id in names and names[id] not in classes]
        if others:
            n = sum(counts[id] for id in others)
            lacking = f'{key} lacks {shorten(names[id] for id in others)}'
            yield warning(f'{path}: {n} annotations are left out: {lacking}')
        number = Counter(names.values())
        if same := [id for id, s in names.items() if number[s] > 1 and s in classes]:
            yield error(f'{path}: categories {shorten(same)} share a name: rename one')
        # mmdet numbers classes in the file's order.
        elif [name for name in names.values() if name in classes] != list(classes):
            text = f'{path} has the classes {shorten(names.values())}, but {key} is'
            yield error(f"{text} {shorten(classes)}: list the file's, in its order")
        listed = Counter(coco.file_names.values())
        if twice := [name for name, n in listed.items() if n > 1]:
            text = f'{path} lists files as several images each'
            yield warning(f'{text}: {shorten(twice)}')


def check_training_objects(context: Context) -> Iterator[Finding]:
    """A file has objects to train on, and the filter leaves most images in it."""
    for entry, coco in context.coco:
        if not entry.key.startswith('train'):
            continue
        left_out = np.array(coco.ids, dtype=object)[~coco.is_taken]
        if len(left_out):
            text = 'are left out, with an image that is not listed, a box outside of it'
            text += f' or below a pixel, or without area: {shorten(left_out)}'
            yield warning(f'{coco.path}: {len(left_out)} annotations {text}')
        classes = entry.dataset.metainfo['classes']
        used = {id for id, name in coco.categories.items() if name in classes}
        # Categories that the config lacks are a fault of their own.
        is_used = np.array([not used or id in used for id in coco.category_of], bool)
        if not (coco.is_taken & coco.is_counted & is_used).any():
            yield error(f'{coco.path} has no object to train on of {shorten(classes)}')
            continue
        settings = entry.dataset.filter_cfg or {}
        minimum = settings.get('min_size', 0)
        small = coco.image_sizes.min(1) < minimum
        has_objects = np.isin(np.arange(len(small)), coco.image_of[is_used])
        empty = ~has_objects & bool(settings.get('filter_empty_gt'))
        n = (small | empty).sum()
        if n > 0.5 * len(small) or small.sum() > 0.01 * len(small):
            yield Finding(
                n == len(small),
                f'{coco.path}: {entry.key}.filter_cfg leaves out {n} of {len(small)} '
                f'images: {empty.sum()} have no annotation of its classes '
                f'(filter_empty_gt), {small.sum()} are below min_size={minimum}',
            )


def check_filters(context: Context) -> Iterator[Finding]:
    """A metric is of all images."""
    for key, _, dataset in context.datasets:
        is_filtered = getattr(dataset, 'filter_cfg', None) and not dataset.test_mode
        if is_filtered and not key.startswith('train'):
            text = f'{key}.filter_cfg leaves images out of the metric'
            yield warning(f'{text}: {remedy({f"{key}.test_mode": True})}')


def check_masks(context: Context) -> Iterator[Finding]:
    """A file has the masks that its metric or its pipeline needs."""
    evaluated = []
    for key, node, coco in context.metrics:
        metrics = _get_metrics(node)
        if 'segm' in metrics:
            evaluated.append(coco)
            others = ','.join(m for m in metrics if m != 'segm') or 'bbox'
            options: dict = {f'{key}.metric': f'[{others}]'}
            roi_head = get_value(context.cfg, 'model.roi_head')
            if roi_head and 'mask_head' not in roi_head:
                text = f'{key} has segm, but model.roi_head no mask_head'
                yield error(f'{text}: {remedy(options)}')
            loader = f'{context.parts[-1]}_dataloader'
            steps = iter_dicts(context.cfg[loader], loader)
            options |= {f'{k}.with_mask': False for k, s in steps if s.get('with_mask')}
            for _, text in _describe_masks(coco):
                yield error(f'{text}; correct them for segm, or {remedy(options)}')
    for entry, coco in context.coco:
        steps = entry.node.get('pipeline', [])
        if coco not in evaluated and any(s.get('with_mask') for s in steps):
            for is_ignored, text in _describe_masks(coco):
                effect = ', which is left out' if is_ignored else ''
                yield Finding(not is_ignored, f'{text}{effect}; correct them')


def _describe_masks(coco):
    """Yield whether mmdet ignores a fault, unless all have it, and a text about it."""
    for fault, n in Counter(filter(None, coco.mask_faults)).items():
        total, first = len(coco.ids), coco.ids[coco.mask_faults.index(fault)]
        text = f'{n} of {total} annotations have {fault} (id {first!r})'
        yield fault == BAD_POLYGON and n < total, f'{coco.path}: {text}'


def check_metric(context: Context) -> Iterator[Finding]:
    """A file has what its metric needs, which is wrong or fails after an epoch."""
    part = context.parts[-1]
    for key, node, known in context.metrics:
        text = f'{known.path} has no annotations'
        if not known.ids and not node.get('format_only'):
            yield Finding(part == 'val', f'{text}, which {key} needs')
        path = f'{part}_dataloader.num_batch_per_epoch'
        if number := get_value(context.cfg, path):
            text = f'{path}={number}: the objects of all other images count as missed'
            yield warning(f'{text} in {key}')
        if set(_get_metrics(node)) - {'proposal_fast'}:
            yield from _check_evaluated(known)
        numbers = node.get('proposal_nums') or (100, 300, 1000)
        if (len(numbers) < 3 or 100 not in numbers) and not node.get('use_mp_eval'):
            text = f'{key}.proposal_nums={numbers}: AP needs three numbers, one of them'
            yield error(f'{text} 100, such as (100, 300, 1000)')
        if '.metrics.' not in key:  # of a MultiDatasetsEvaluator, each for one dataset
            yield from _compare_with_loaded(context, key, known)


def _compare_with_loaded(context, key, known):
    """Check that the datasets of a metric load each image of its file once."""
    loaded: Counter = Counter()
    for entry, coco in context.evaluated_coco:
        # Ids alone do not tell images apart, as many files start at 1.
        own, evaluated = _images(coco), _images(known)
        if not own <= evaluated:
            text = f'{key}.ann_file, {known.path}, lacks images of {coco.path}'
            yield error(f'{text}: give it and {entry.key}.ann_file the same file')
        if own == evaluated and not np.array_equal(coco.boxes, known.boxes):
            text = f'{key}.ann_file is {known.path}, with other boxes than'
            yield warning(f'{text} {coco.path}, which {entry.key} reads')
        ids, taken = [*coco.file_names], entry.dataset._indices
        if isinstance(taken, int):
            taken = range(len(ids))[min(taken, 0) :][: max(taken, 0) or None]
        loaded.update(ids if taken is None else [ids[i] for i in taken])
    if twice := [id for id, n in loaded.items() if n > 1]:
        text = f'{key}: several datasets have images of the same id {shorten(twice)}'
        yield error(f'{text}; number them differently, in one ann_file of {key}')
    if missed := known.file_names.keys() - loaded.keys():
        text = f'{key}: {len(missed)} of {len(known.file_names)} images of {known.path}'
        yield warning(f'{text} are not loaded, so that all their objects are missed')


def check_max_per_img(context: Context) -> Iterator[Finding]:
    """As many objects count in an image as the file of a metric has."""
    part = 'rcnn.' if get_value(context.cfg, 'model.test_cfg.rcnn') else ''
    limit = get_value(context.cfg, f'model.test_cfg.{part}max_per_img', math.inf)
    for _, _, known in context.metrics:
        images = known.image_of.tolist()
        groups = (images, limit), (zip(images, known.category_of), 100)
        lost = [sum(max(0, n - k) for n in Counter(g).values()) for g, k in groups]
        if max(lost) > 0.01 * len(known.ids):
            text = f'{max(lost)} of {len(known.ids)} objects are beyond max_per_img={limit}'
            text += ' or 100 of a class in an image, so that no model has an AP of 1'
            yield warning(f'{known.path}: {text}')


def _images(coco):
    return {(id, osp.basename(name)) for id, name in coco.file_names.items()}


def _get_metrics(node):
    names = [] if node.get('format_only') else node.get('metric', 'bbox')
    return [names] if isinstance(names, str) else list(names or ())


def _check_evaluated(coco):
    """Check the numbers that COCOeval reads: what it does with some of them."""
    texts = [id for id in coco.ids if isinstance(id, str) and not id.isdecimal()]
    # It leaves crowds and negative areas out, and takes 0 for a small object (mAP_s).
    is_in_range = (coco.areas >= 0) & (coco.areas <= 1e10)
    is_left_out = not (coco.is_counted & is_in_range).any() and len(coco.ids)
    lost = (~coco.is_taken & coco.is_counted & (coco.areas > 0)).sum()
    small = 0 if is_left_out else (coco.areas <= 0).sum()
    ratios = coco.areas / np.maximum(coco.boxes[:, 2:].prod(1), 1e-6)
    odd = (((ratios < 0.002) | (ratios > 2)) & (coco.areas > 0)).sum()
    for is_error, n, text in (
        (True, (~coco.has_crowd_flag).sum(), 'have no iscrowd; add "iscrowd": 0'),
        (True, len(texts), f'have text as id, such as {texts[:1]}; number them from 1'),
        (False, len({0, '0'} & {*coco.ids}), 'have the id 0, which COCOeval takes for '
         '"no match", so that the AP is too low; number them from 1'),
        (True, is_left_out, 'are crowds ("iscrowd": 1) or have an area below 0 or above '
         '1e10, so that the AP is -1; correct these'),
        (False, lost * (lost > 0.01 * len(coco.ids)), 'have an image that is not listed, or '
         'a box outside of it or below a pixel, which no prediction matches'),
        (False, coco.is_ignored.sum(), 'are ignored, but COCOeval reads iscrowd only'),
        (False, small, 'have an area of 0 or less, so that COCOeval leaves them out or '
         'takes them for small ones; set area to the number of pixels'),
        (False, odd * (2 * odd > len(coco.ids)), 'have an area that is not of their box, '
         'so that AP is wrong by size (mAP_s); set area to the number of pixels'),
    ):  # fmt: skip
        if n:
            text = f'{coco.path}: {n} of {len(coco.ids)} annotations {text}'
            yield Finding(is_error, text)
