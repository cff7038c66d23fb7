"""Errors in a data pipeline that name the sample, and checks of loaded masks."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.dataset import BaseDataset, Compose

from ra_mm.engine.config import iter_unwrapped
from ra_mm.errors import UserError, describe
from ra_mm.validation import shorten


def name_samples(dataset: Any) -> None:
    """Add the path of the image to any error in the pipelines of a dataset.

    Masks that do not fit their image or the classes become errors too: training
    would use them as they are.

    Args:
        dataset: A dataset, or a wrapper of one or more datasets.
    """
    for _, leaf in iter_unwrapped(dataset, ''):
        if type(getattr(leaf, 'pipeline', None)) is Compose:
            leaf.pipeline = NamingCompose(leaf)


class NamingCompose(Compose):
    """The pipeline of a dataset, whose errors name the image and the transform."""

    def __init__(self, dataset: BaseDataset) -> None:
        super().__init__(dataset.pipeline.transforms)
        self.classes = getattr(dataset, 'metainfo', {}).get('classes') or ()
        self.ignore_index = getattr(dataset, 'ignore_index', None)  # only in mmseg

    def __call__(self, data: Any) -> dict | None:
        for step in self.transforms:
            data = run_step(step, data)
            if data is None:
                break
            if isinstance(step, LoadAnnotations):
                run_step(self.check_mask, data)
        return data

    def check_mask(self, data: dict) -> None:
        """Raise a ValueError if a loaded mask does not fit its image or the classes."""
        mask = data.get('gt_seg_map')
        if mask is None:
            return
        if fault := describe_mask_shape(mask, data.get('ori_shape')):
            raise ValueError(fault)
        n, ignored = len(self.classes), self.ignore_index
        if bad := find_unknown_labels(np.unique(mask), n, ignored):
            text = f'the mask has values {shorten(bad)}, but the {n} classes are 0 to'
            advice = 'change the mask, metainfo.classes or reduce_zero_label'
            raise ValueError(f'{text} {n - 1} and {ignored} is ignored: {advice}')


def run_step(step: Callable, data: dict) -> Any:
    """Apply a transform to a sample.

    Raises:
        UserError: If it fails. OpenCV, for one, does not say which file it cannot
            read, so the message names the files of the sample, and the transform.
    """
    image, mask = data.get('img_path') or 'a sample', data.get('seg_map_path')
    try:
        return step(data)
    except (Exception, SystemExit) as e:
        labels = f'its mask {mask}' if mask else 'its annotations'
        name = getattr(step, '__name__', type(step).__name__)
        reason = f'{" ".join(describe(e).split())} (in {name})'
        raise UserError(f'{image} or {labels} cannot be loaded: {reason}') from e


def describe_mask_shape(mask: np.ndarray, image_shape: tuple | None) -> str | None:
    """Say how a mask is not one label for each pixel of its image; None if it is."""
    if image_shape is None or mask.shape == tuple(image_shape[:2]):
        return None
    found = f'the mask has shape {mask.shape}, the image {tuple(image_shape[:2])}'
    return f'{found}: expected one label per pixel'


def find_unknown_labels(
    labels: Iterable, num_classes: int, ignore_index: int | None
) -> list[int]:
    """List the labels of masks that are neither a class nor ignored.

    Nothing is known to be wrong without classes or without an ignored label.
    """
    if not num_classes or ignore_index is None:
        return []
    return [int(v) for v in labels if v >= num_classes and v != ignore_index]
