"""Errors of loading data that name the image."""
from mmengine.dataset import Compose
from mmengine.runner import Runner


def name_samples(runner: Runner) -> None:
    """Let what goes wrong in a pipeline say with which image it does.

    OpenCV, for one, tells of an empty file only that it is empty. From now on
    the runner's dataloaders raise a ValueError in place of whatever a
    transform raises.
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
        dataset.pipeline = _NamingCompose(dataset.pipeline.transforms)


class _NamingCompose(Compose):

    def __call__(self, data):
        image, mask = data.get('img_path'), data.get('seg_map_path')
        try:
            return super().__call__(data)
        except Exception as e:
            what = f'its mask {mask}' if mask else 'its annotations'
            reason = ' '.join(str(e).split()) or type(e).__name__
            raise ValueError(
                f'{image} or {what} cannot be loaded: {reason}') from e
