"""Checks of all boxes of COCO annotation files, and of what a metric needs."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from mmengine.config import Config

from ra_mm.engine.config import get_value, iter_unwrapped
from ra_mm.validation import shorten

from .coco import CocoFile, is_coco

# Of the boxes: more that leave their images are no accident.
FEW = 0.1


def check_annotations(
    dataset, key: str, coco: CocoFile, is_train: bool, warnings: list[str]
) -> Iterator[str]:
    """Yield problems of the boxes of a file, and of what is left of it."""
    yield from _check_box_format(dataset.ann_file, coco, warnings)
    names = Counter(coco.file_names.values())
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        warnings.append(
            f'{dataset.ann_file}: {len(twice)} files are listed as several images, each '
            f'with a part of the annotations: {shorten(twice)}'
        )
    if is_train:
        yield from _check_filter(dataset, key, coco, warnings)


def _check_box_format(path, coco, warnings):
    """Boxes are x, y, width, height in pixels."""
    listed = coco.image_of >= 0
    boxes, size = coco.boxes[listed], coco.image_sizes[coco.image_of[listed]]
    if not len(boxes):
        return
    if len(boxes) >= 8 and (boxes <= 1).all():
        yield (
            f'{path}: all boxes are within 0 and 1, expected x, y, width, height in '
            'pixels; multiply them by the width and the height of their images'
        )
        return
    first, second = boxes[:, :2], boxes[:, 2:]
    slack = 2 + 0.02 * size.max(1, keepdims=True)
    outside = ((first + second > size + slack) | (first < -slack)).any(1)
    if outside.sum() <= FEW * len(boxes):
        return
    text = f'{path}: {outside.sum()} of {len(boxes)} boxes leave their image'
    is_corners = (second >= first) & (second <= size + slack)
    is_center = (first - second / 2 >= -slack) & (first + second / 2 <= size + slack)
    swapped = (boxes[:, [1, 0]] + boxes[:, [3, 2]] <= size + slack) & (first >= -slack)
    for fits, what, remedy in (
        (is_corners, 'x1, y1, x2, y2', 'x1, y1, x2 - x1, y2 - y1'),
        (is_center, 'a centre, width and height', 'x - width / 2, y - height / 2'),
        (swapped, 'y, x, height, width', 'the second, first, fourth and third'),
    ):
        if len(boxes) >= 8 and fits.all(1).mean() > 0.98:
            yield (
                f'{text}, but none as {what}: write them as x, y, width, height '
                f'({remedy})'
            )
            return
    warnings.append(f'{text}; are they x, y, width, height in pixels of these images?')


def _check_filter(dataset, key, coco, warnings):
    """Some images and objects of each class are left to train on."""
    classes = list(dataset.metainfo['classes'])
    ids = {id for id, name in coco.categories.items() if name in classes}
    in_classes = np.array([id in ids for id in coco.category_of], dtype=bool)
    listed = coco.image_of >= 0
    used = listed & coco.is_taken & coco.is_counted
    if ids and coco.is_trainable and not (used & in_classes).any():
        yield f'{dataset.ann_file} has no object to train on of {shorten(classes)}'
        return
    filter_cfg = dataset.filter_cfg or {}
    kept = np.ones(len(coco.image_sizes), dtype=bool)
    reasons = []
    if filter_cfg.get('filter_empty_gt'):
        has = np.zeros(len(kept), dtype=bool)
        has[coco.image_of[listed & in_classes]] = True
        kept &= has
        option = f'{key}.filter_cfg.filter_empty_gt=False'
        reasons.append(
            (len(has) - has.sum(), 'have no annotation of its classes', option)
        )
    minimum = filter_cfg.get('min_size', 0)
    large = coco.image_sizes.min(1) >= minimum
    option = f'{key}.filter_cfg.min_size={int(coco.image_sizes.min())}'
    reasons.append((len(large) - large.sum(), f'are smaller than {minimum}', option))
    kept &= large
    left_out = len(kept) - kept.sum()
    said = [f'{n} {why} ({option})' for n, why, option in reasons if n]
    text = f'{dataset.ann_file}: {key}.filter_cfg leaves out {left_out} of {len(kept)} '
    text += f'images: {", ".join(said)}'
    if not kept.any():
        yield text
    elif left_out > 0.5 * len(kept):
        warnings.append(text)
    used[listed] &= kept[coco.image_of[listed]]
    ids_used = Counter(id for id, use in zip(coco.category_of, used) if use)
    # Names that the file does not know are a problem of their own.
    missing = [coco.categories[id] for id in ids if not ids_used[id]]
    if missing and kept.any() and coco.is_trainable:
        warnings.append(
            f'{dataset.ann_file} has no object to train on of {shorten(missing)}'
        )


def check_validation_data(cfg: Config, key: str, path: str, datasets, read):
    """Yield what the annotations of a CocoMetric lack, which fails after an epoch."""
    evaluator = get_value(cfg, key.removesuffix('.ann_file'), {})
    metrics = evaluator.get('metric', 'bbox')
    metrics = [metrics] if isinstance(metrics, str) else list(metrics or ())
    part = key.split('_')[0]
    if evaluator.get('format_only') or not any(
        name.startswith(f'{part}_') and is_coco(dataset)
        for name, dataset in datasets.items()
    ):
        return
    coco = read(path)
    if coco is None:
        return
    total = coco.category_counts.total()
    if not total and part == 'val':
        yield f'{path} has no annotations, which {key.split(".")[0]} needs'
    if coco.num_without_crowd and set(metrics) & {'bbox', 'segm'}:
        yield (
            f'{path}: {coco.num_without_crowd} of {total} annotations have no iscrowd, '
            'which the evaluation needs; add "iscrowd": 0'
        )
    if 'segm' in metrics and coco.num_without_mask:
        others = ','.join(f"'{m}'" for m in metrics if m != 'segm') or "'bbox'"
        options = [
            f'{key.removesuffix(".ann_file")}.metric=[{others}]'.replace("'", '')
        ]
        root = get_value(cfg, f'{part}_dataloader.dataset')
        for name, node in iter_unwrapped(root, f'{part}_dataloader.dataset'):
            for i, step in enumerate(node.get('pipeline', [])):
                if step.get('with_mask'):
                    options.append(f'{name}.pipeline.{i}.with_mask=False')
        yield (
            f'{path}: {coco.num_without_mask} of {total} annotations have no '
            'segmentation, which metric=segm needs; add them, or pass --cfg-options '
            f'{" ".join(options)}'
        )
