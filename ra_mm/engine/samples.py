"""Errors in a data pipeline that name the sample, and a check of masks."""

import sysconfig
import traceback

from mmcv.transforms import LoadAnnotations
from mmengine.dataset import Compose

from ra_mm.errors import UserError, describe
from ra_mm.validation import shorten

# Where installed code lies, and packages that are often installed from a clone.
INSTALLED = (sysconfig.get_path('stdlib'), 'site-packages', 'dist-packages', '<')
LIBRARIES = ('ra_mm', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg')


def name_samples(dataset) -> None:
    """Add the path of the image to any error in the pipelines of a dataset.

    OpenCV, for one, does not say which file it cannot read. Masks that do not
    fit their image or the classes become errors too: training would use them
    as they are.

    Args:
        dataset: A dataset, or a wrapper of one or more datasets.
    """
    children = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for child in children:
        if child is not None:
            name_samples(child)
    if type(getattr(dataset, 'pipeline', None)) is Compose:
        steps = []
        for step in dataset.pipeline.transforms:
            steps.append(step)
            if isinstance(step, LoadAnnotations):
                steps.append(MaskCheck(dataset))
        dataset.pipeline = NamingCompose(steps)


class NamingCompose(Compose):
    """A pipeline that raises a :class:`UserError` with the path of the image."""

    def __call__(self, data):
        image = data.get('img_path') or 'a sample'
        mask = data.get('seg_map_path')
        try:
            return super().__call__(data)
        except Exception as e:
            labels = f'its mask {mask}' if mask else 'its annotations'
            reason = describe_failure(e)
            raise UserError(f'{image} or {labels} cannot be loaded: {reason}') from e


def describe_failure(error: Exception) -> str:
    """Describe an error in a pipeline in one line.

    If a transform of the user's own has failed, this includes the file and the line.
    """
    text = ' '.join(describe(error).split())
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = frame.f_code.co_filename
        package = str(frame.f_globals.get('__name__')).split('.')[0]
        if package not in LIBRARIES and not any(part in path for part in INSTALLED):
            return f'{text} ({path}, line {line})'
    return text


class MaskCheck:
    """A transform that checks the shape and the values of a loaded mask."""

    def __init__(self, dataset):
        self.classes = getattr(dataset, 'metainfo', {}).get('classes')
        self.ignore_index = getattr(dataset, 'ignore_index', None)  # only in mmseg

    def __call__(self, data):
        mask, size = data.get('gt_seg_map'), data.get('ori_shape')
        if mask is None:
            return data
        if size is not None and mask.shape != tuple(size[:2]):
            raise ValueError(
                f'the mask has shape {mask.shape}, the image {tuple(size[:2])}: '
                'expected one class per pixel'
            )
        if self.classes and self.ignore_index is not None:
            bad = mask[(mask >= len(self.classes)) & (mask != self.ignore_index)]
            if bad.size:
                raise ValueError(
                    f'the mask has values {shorten(sorted(set(bad.tolist())))}, but '
                    f'the {len(self.classes)} classes are numbered from 0 and '
                    f'{self.ignore_index} is ignored: change the mask, '
                    'metainfo.classes or reduce_zero_label'
                )
        return data
