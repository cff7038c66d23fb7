"""COCO annotation files, against the classes of the config, the model and the metric."""

import os.path as osp
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ra_mm.checks.coco import BAD_POLYGON, CocoFile, is_coco
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


def iter_all_coco(context: Context) -> Iterator[tuple[DatasetEntry, CocoFile]]:
    """Yield these, and other files that metrics read, as if their datasets did."""
    known = set()
    for entry, coco in iter_coco(context):
        known.add((entry.key.split('_')[0], osp.realpath(coco.path)))
        yield entry, coco
    for key, _, coco in iter_metric_files(context):
        part = key.split('_')[0]
        if (part, osp.realpath(coco.path)) not in known:
            entry = next(e for e, _ in iter_coco(context) if e.key.startswith(part))
            yield entry, coco


def iter_metric_files(context: Context) -> Iterator[tuple[str, dict, CocoFile]]:
    """Yield key, config and annotation file of each metric of datasets in COCO."""
    parts = {entry.key.split('_')[0] for entry, _ in iter_coco(context)}
    for key, node, path in iter_evaluator_files(context):
        if key.split('_')[0] in parts and osp.exists(path):
            coco = context.read_coco(path)
            if coco is not None:
                yield key, node, coco


def iter_evaluator_files(context: Context) -> Iterator[tuple[str, dict, str]]:
    """Yield key, config and annotation file of each metric that reads one."""
    for key, node in context.iter_evaluators():
        path = node.get('ann_file')
        if isinstance(path, str) and is_local(node):
            yield key, node, path


def check_readable(context: Context) -> Iterator[Finding]:
    """Annotation files are JSON, and their entries have what mmdet needs."""
    for _ in iter_all_coco(context):
        pass
    for found in context.coco_files.values():
        if isinstance(found, UserError):
            yield error(str(found))


def check_categories(context: Context) -> Iterator[Finding]:
    """The categories of a file are the classes of its dataset, in the same order."""
    for entry, coco in iter_all_coco(context):
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
    for _, coco in iter_all_coco(context):
        names = Counter(coco.file_names.values())
        twice = [name for name, n in names.items() if n > 1]
        if twice:
            yield warning(
                f'{coco.path}: {len(twice)} files are listed as several images, each '
                f'with a part of the annotations: {shorten(twice)}'
            )


def check_training_objects(context: Context) -> Iterator[Finding]:
    """A file has objects to train on."""
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


def _has_objects(entry, coco):
    return (coco.is_taken & coco.is_counted & _of_classes(entry, coco)).any()


def _of_classes(entry, coco):
    """Whether each annotation is of a class of the dataset, or of none at all.

    Categories that the config lacks are a fault of their own.
    """
    classes = entry.dataset.metainfo['classes']
    ids = {id for id, name in coco.categories.items() if name in classes}
    return np.array([not ids or id in ids for id in coco.category_of], dtype=bool)


def check_masks(context: Context) -> Iterator[Finding]:
    """A file has the masks that its metric or its pipeline needs."""
    evaluated = set()
    for key, node, coco in iter_metric_files(context):
        metrics = _get_metrics(node)
        if 'segm' in metrics:
            evaluated.add(coco.path)
            others = ','.join(m for m in metrics if m != 'segm') or 'bbox'
            options: dict = {f'{key}.metric': f'[{others}]'}
            for pipeline, steps in context.iter_pipelines():
                for i, step in enumerate(steps):
                    if pipeline.startswith(key[:4]) and step.get('with_mask'):
                        options[f'{pipeline}.{i}.with_mask'] = False
            advice = f'correct them for metric=segm, or {remedy(options)}'
            for _, text in _describe_masks(coco):
                yield error(f'{text}; {advice}')
    for entry, coco in iter_coco(context):
        steps = entry.node.get('pipeline', [])
        if coco.path not in evaluated and any(s.get('with_mask') for s in steps):
            for is_ignored, text in _describe_masks(coco):
                effect = 'is left out' if is_ignored else 'cannot be loaded'
                yield Finding(not is_ignored, f'{text}, which {effect}; correct them')


def _describe_masks(coco):
    """Yield whether mmdet ignores a fault, unless all have it, and a text about it."""
    for fault, n in Counter(filter(None, coco.mask_faults)).items():
        total, first = len(coco.ids), coco.ids[coco.mask_faults.index(fault)]
        yield (
            fault == BAD_POLYGON and n < total,
            f'{coco.path}: {n} of {total} annotations have {fault} (id {first!r})',
        )


def check_filter(context: Context) -> Iterator[Finding]:
    """The filter of a dataset leaves most images in it."""
    for entry, coco in iter_coco(context):
        if not entry.is_train or not _has_objects(entry, coco):
            continue
        settings = entry.dataset.filter_cfg or {}
        smallest, minimum = coco.image_sizes.min(1), settings.get('min_size', 0)
        small: np.ndarray = smallest < minimum
        empty = np.zeros_like(small)
        if settings.get('filter_empty_gt'):
            used = (coco.image_of >= 0) & _of_classes(entry, coco)
            empty = ~np.isin(np.arange(len(empty)), coco.image_of[used])
        left_out = small | empty
        if left_out.mean() > 0.5:
            yield Finding(
                bool(left_out.all()),
                f'{coco.path}: {entry.key}.filter_cfg leaves out {left_out.sum()} of '
                f'{len(left_out)} images: {empty.sum()} have no annotation of its '
                f'classes (filter_empty_gt), {small.sum()} are smaller than '
                f'min_size={minimum} (the smallest side is {smallest.min():g})',
            )


def check_metric(context: Context) -> Iterator[Finding]:
    """A file has what its metric needs, which is wrong or fails after an epoch."""
    for key, node, coco in iter_metric_files(context):
        if not coco.ids and key.startswith('val') and not node.get('format_only'):
            yield error(f'{coco.path} has no annotations, which {key} needs')
        if set(_get_metrics(node)) - {'proposal_fast'}:
            yield from _check_evaluated(coco)


def _get_metrics(node):
    names = [] if node.get('format_only') else node.get('metric', 'bbox')
    return [names] if isinstance(names, str) else list(names or ())


def _check_evaluated(coco):
    """Check the numbers that COCOeval reads."""
    total = f'of {len(coco.ids)} annotations'
    lacking = (~coco.has_crowd_flag).sum()
    if lacking:
        yield error(
            f'{coco.path}: {lacking} {total} have no iscrowd, which the evaluation '
            'needs; add "iscrowd": 0'
        )
    texts = [id for id in coco.ids if isinstance(id, str) and not id.isdecimal()]
    if texts:
        yield error(
            f'{coco.path}: {len(texts)} {total} have an id that is text, such as '
            f'{texts[0]!r}, which the evaluation cannot read; number them from 1'
        )
    if {0, '0'} & set(coco.ids):
        yield warning(
            f'{coco.path}: an annotation has the id 0, which the evaluation takes for '
            '"no match", so that its AP is too low; number them from 1'
        )
    small = (coco.areas <= 0).sum()
    if coco.ids and not (coco.is_counted & (coco.areas >= 0)).any():
        yield error(
            f'{coco.path}: all annotations are crowds, or have an area below 0, and '
            'the evaluation leaves these out (its AP is -1); set "iscrowd": 0, and '
            'area to the number of pixels'
        )
    elif small:
        yield warning(
            f'{coco.path}: {small} {total} have an area of 0 or less: the evaluation '
            'leaves them out below 0, and takes them for small objects at 0 (mAP_s); '
            'set area to the number of pixels'
        )


def check_images_of_metric(context: Context) -> Iterator[Finding]:
    """The annotation file of a metric has all images of its dataset."""
    for key, _, known in iter_metric_files(context):
        for entry, coco in iter_coco(context):
            same_part = entry.key.split('_')[0] == key.split('_')[0]
            # Ids alone do not tell images apart, as many files start at 1.
            if same_part and not _images(coco) <= _images(known):
                yield error(
                    f'{key}.ann_file is {known.path}, which lacks images of '
                    f'{entry.key}.ann_file, {coco.path}: give both the same file'
                )


def _images(coco):
    return {(id, osp.basename(name)) for id, name in coco.file_names.items()}
