"""COCO annotation files, against the classes of the config, the model and the metric."""

import os.path as osp
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ra_mm.checks.coco import CocoFile, is_coco
from ra_mm.checks.context import Context, DatasetEntry, is_local
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.errors import UserError
from ra_mm.validation import shorten


def iter_coco(context: Context) -> Iterator[tuple[DatasetEntry, CocoFile]]:
    """Yield the datasets that are read as COCO, with their annotation files."""
    for entry in context.datasets:
        if is_coco(entry.dataset):
            coco = context.read_coco(entry.dataset.ann_file)
            if coco is not None:
                yield entry, coco


def iter_evaluator_files(context: Context) -> Iterator[tuple[str, dict, str]]:
    """Yield key, config and annotation file of each metric that reads one."""
    for key, node in context.iter_evaluators():
        path = node.get('ann_file')
        if isinstance(path, str) and is_local(node):
            yield key, node, path


def check_readable(context: Context) -> Iterator[Finding]:
    """Annotation files are JSON, and their entries have what mmdet needs."""
    for _ in iter_coco(context):
        pass
    if any(is_coco(entry.dataset) for entry in context.datasets):
        for _, _, path in iter_evaluator_files(context):
            if osp.exists(path):
                context.read_coco(path)
    for found in context.coco_files.values():
        if isinstance(found, UserError):
            yield error(str(found))


def check_categories(context: Context) -> Iterator[Finding]:
    """The categories of a file are the classes of its dataset, in the same order."""
    for entry, coco in iter_coco(context):
        path, names, counts = coco.path, coco.categories, Counter(coco.category_of)
        classes = list(entry.dataset.metainfo['classes'])
        unknown = [id for id in counts if id not in names]
        if unknown:
            yield error(
                f'{path}: {sum(counts[id] for id in unknown)} annotations have a '
                f'category_id {shorten(unknown)} that its categories {shorten(names)} '
                'lack'
            )
        others = [id for id in counts if id in names and names[id] not in classes]
        if others:
            yield warning(
                f'{path}: {sum(counts[id] for id in others)} annotations are left out: '
                f'{entry.key}.metainfo.classes lacks '
                f'{shorten(names[id] for id in others)}'
            )
        # mmdet numbers classes in the file's order.
        if [name for name in names.values() if name in classes] != classes:
            yield error(
                f'{path} has the classes {shorten(names.values())}, but '
                f'{entry.key}.metainfo.classes is {shorten(classes)}: make them the '
                "same, in the file's order, and num_classes their number"
            )


def check_images_listed_twice(context: Context) -> Iterator[Finding]:
    """Each image is listed once, with all of its annotations."""
    for _, coco in iter_coco(context):
        names = Counter(coco.file_names.values())
        twice = [name for name, n in names.items() if n > 1]
        if twice:
            yield warning(
                f'{coco.path}: {len(twice)} files are listed as several images, each '
                f'with a part of the annotations: {shorten(twice)}'
            )


def check_training_objects(context: Context) -> Iterator[Finding]:
    """A file has objects to train on, with masks if the model learns them."""
    for entry, coco in iter_coco(context):
        if not entry.is_train:
            continue
        left_out = [id for id, taken in zip(coco.ids, coco.is_taken) if not taken]
        if left_out:
            yield warning(
                f'{coco.path}: {len(left_out)} annotations are left out, because their '
                'image is not listed, or their box is outside of it, less than a pixel '
                f'wide or high, or without area: {shorten(left_out)}'
            )
        if not _has_objects(entry, coco):
            classes = shorten(entry.dataset.metainfo['classes'])
            yield error(f'{coco.path} has no object to train on of {classes}')
        elif any(step.get('with_mask') for step in entry.node.get('pipeline', [])):
            yield from _check_masks(coco, 'this model trains on')


def _has_objects(entry, coco):
    return (coco.is_taken & coco.is_counted & _of_classes(entry, coco)).any()


def _of_classes(entry, coco):
    """Whether each annotation is of a class of the dataset, or of none at all.

    Categories that the config lacks are a fault of their own.
    """
    classes = entry.dataset.metainfo['classes']
    ids = {id for id, name in coco.categories.items() if name in classes}
    return np.array([not ids or id in ids for id in coco.category_of], dtype=bool)


def _check_masks(coco, need):
    lacking = (~coco.has_mask).sum()
    if lacking:
        yield error(
            f'{coco.path}: {lacking} of {len(coco.ids)} annotations have no '
            f'segmentation, which {need}'
        )


def check_filter(context: Context) -> Iterator[Finding]:
    """The filter of a dataset leaves most images in it."""
    for entry, coco in iter_coco(context):
        if not entry.is_train or not _has_objects(entry, coco):
            continue
        key = f'{entry.key}.filter_cfg'
        settings = entry.dataset.filter_cfg or {}
        kept = np.ones(len(coco.image_sizes), dtype=bool)
        reasons = []
        if settings.get('filter_empty_gt'):
            used = (coco.image_of >= 0) & _of_classes(entry, coco)
            kept[:] = False
            kept[coco.image_of[used]] = True
            why = 'have no annotation of its classes'
            reasons.append((~kept, why, f'{key}.filter_empty_gt=False'))
        smallest = int(coco.image_sizes.min())
        small = coco.image_sizes.min(1) < settings.get('min_size', 0)
        why = f'are smaller than {settings.get("min_size", 0)}'
        reasons.append((small, why, f'{key}.min_size={smallest}'))
        kept &= ~small
        if kept.sum() < 0.5 * len(kept):
            said = [f'{out.sum()} {why} ({option})' for out, why, option in reasons
                    if out.any()]  # fmt: skip
            yield Finding(
                not kept.any(),
                f'{coco.path}: {key} leaves out {(~kept).sum()} of {len(kept)} images: '
                f'{", ".join(said)}',
            )


def check_metric(context: Context) -> Iterator[Finding]:
    """A file has what its metric needs, which fails after an epoch otherwise."""
    for key, node, path in iter_evaluator_files(context):
        name, part = key.split('.')[0], key.split('_')[0]
        names = node.get('metric', 'bbox')
        metrics = [names] if isinstance(names, str) else list(names or ())
        entries = [e for e in context.all_datasets if e.key.startswith(f'{part}_')]
        if node.get('format_only') or not any(is_coco(e.dataset) for e in entries):
            continue
        coco = context.read_coco(path) if osp.exists(path) else None
        if coco is None:
            continue
        if not coco.ids and part == 'val':
            yield error(f'{path} has no annotations, which {name} needs')
        lacking = (~coco.has_crowd_flag).sum()
        if lacking and {'bbox', 'segm'} & set(metrics):
            yield error(
                f'{path}: {lacking} of {len(coco.ids)} annotations have no iscrowd, '
                'which the evaluation needs; add "iscrowd": 0'
            )
        if 'segm' in metrics:
            others = ','.join(m for m in metrics if m != 'segm') or 'bbox'
            options: dict = {f'{key}.metric': f'[{others}]'}
            for pipeline, steps in context.iter_pipelines():
                for i, step in enumerate(steps):
                    if pipeline.startswith(part) and step.get('with_mask'):
                        options[f'{pipeline}.{i}.with_mask'] = False
            need = f'metric=segm needs; add them, or {remedy(options)}'
            yield from _check_masks(coco, need)


def check_images_of_metric(context: Context) -> Iterator[Finding]:
    """The annotation file of a metric has all images of its dataset."""
    for key, _, path in iter_evaluator_files(context):
        for entry, coco in iter_coco(context):
            same_part = entry.key.split('_')[0] == key.split('_')[0]
            if not (same_part and osp.exists(path)) or osp.samefile(path, coco.path):
                continue
            known = context.read_coco(path)
            # Ids alone do not tell images apart, as many files start at 1.
            if known and not _images(coco) <= _images(known):
                yield error(
                    f'{key}.ann_file is {path}, which lacks images of '
                    f'{entry.key}.ann_file, {coco.path}: give both the same file'
                )


def _images(coco):
    return {(id, osp.basename(name)) for id, name in coco.file_names.items()}
