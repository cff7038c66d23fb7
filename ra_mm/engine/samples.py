"""Errors of loading data that name the image."""

from mmcv.transforms import LoadAnnotations
from mmengine.dataset import Compose
from mmengine.runner import Runner

from ra_mm.validation import shorten


def name_samples(runner: Runner) -> None:
    """Let what goes wrong in a pipeline say with which image it does.

    OpenCV, for one, tells of an empty file only that it is empty. From now on
    the runner's dataloaders raise a ValueError in place of whatever a
    transform raises, and for a mask that does not fit its image or its
    dataset's classes, which training would take as it is.
    """
    build = runner.build_dataloader

    def build_dataloader(*args, **kwargs):
        loader = build(*args, **kwargs)
        _wrap(loader.dataset)
        return loader

    runner.build_dataloader = build_dataloader


def _wrap(dataset):
    for child in getattr(dataset, 'datasets', None) or [
        getattr(dataset, 'dataset', None)
    ]:
        if child is not None:
            _wrap(child)
    if type(getattr(dataset, 'pipeline', None)) is Compose:
        steps = []
        for step in dataset.pipeline.transforms:
            steps.append(step)
            if isinstance(step, LoadAnnotations):
                steps.append(_MaskCheck(dataset))
        dataset.pipeline = _NamingCompose(steps)


class _NamingCompose(Compose):
    def __call__(self, data):
        image = data.get('img_path') or 'a sample'
        mask = data.get('seg_map_path')
        try:
            return super().__call__(data)
        except Exception as e:
            what = f'its mask {mask}' if mask else 'its annotations'
            reason = ' '.join(str(e).split()) or type(e).__name__
            raise ValueError(f'{image} or {what} cannot be loaded: {reason}') from e


class _MaskCheck:
    """A transform that looks at a mask (gt_seg_map) just loaded."""

    def __init__(self, dataset):
        self.classes = getattr(dataset, 'metainfo', {}).get('classes')
        self.ignore = getattr(dataset, 'ignore_index', None)  # mmseg's alone

    def __call__(self, data):
        mask, size = data.get('gt_seg_map'), data.get('ori_shape')
        if mask is None:
            return data
        if size is not None and mask.shape != tuple(size[:2]):
            raise ValueError(
                f'the mask is of shape {mask.shape}, the image '
                f'of {tuple(size[:2])}: expected one class a '
                'pixel'
            )
        if self.classes and self.ignore is not None:
            odd = mask[(mask >= len(self.classes)) & (mask != self.ignore)]
            if odd.size:
                raise ValueError(
                    f'the mask has values {shorten(sorted(set(odd.tolist())))} '
                    f'where {len(self.classes)} classes are numbered from 0 '
                    f'and {self.ignore} is no class; make it fit metainfo.'
                    'classes and reduce_zero_label'
                )
        return data
