"""What the pipelines do to images and labels, above all in an evaluation."""

from collections.abc import Iterator

import numpy as np

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_toolbox, get_type, get_value

# What metrics compare with predictions as the pipeline made it; others read files.
LOADED = dict(IoUMetric='masks', SemSegMetric='masks', VOCMetric='boxes')
RANDOM = ('Mosaic', 'CachedMosaic', 'MixUp', 'CachedMixUp', 'PhotoMetricDistortion')


def check_masks(context: Context) -> Iterator[Finding]:
    """An evaluation of segmentation has classes and loads masks."""
    part = context.parts[-1]
    nodes = [node for _, node in context.iter_evaluators()]
    if all(get_type(n) != 'IoUMetric' or n.get('format_only') for n in nodes):
        return
    for key, _, dataset in context.all_datasets:
        if key.startswith(part) and not dataset.metainfo.get('classes'):
            yield error(f'{key}.metainfo has no classes, which IoUMetric needs')
    for key, _, types in _iter_evaluated(context):
        is_loaded = any('Load' in name and 'Ann' in name for name in types)
        if not is_loaded and 'PackSegInputs' in types:
            yield error(f'{key} has no LoadAnnotations, which IoUMetric needs')


def check_order(context: Context) -> Iterator[Finding]:
    """Masks and boxes keep their size in an evaluation: that of the predictions."""
    metrics = [get_type(node) for _, node in context.iter_evaluators()]
    loaded = 'masks' if get_toolbox(context.cfg) == 'mmseg' else None
    loaded = loaded or next((LOADED[name] for name in metrics if name in LOADED), None)
    for key, _, types in _iter_evaluated(context) if loaded else ():
        resizing = [i for i, name in enumerate(types) if 'Resize' in name]
        if 'LoadAnnotations' in types[: min(resizing, default=0)]:
            i, j = types.index('LoadAnnotations'), resizing[0]
            text = f'{key} resizes the {loaded}, but predictions have the size of the image'
            yield error(f'{text}: put step {i}, LoadAnnotations, after step {j}')


def check_padding(context: Context) -> Iterator[Finding]:
    """The crops of a training are about as large as what they are padded to."""
    key = 'model.data_preprocessor.size'
    padded = get_value(context.cfg, key)
    for path, pipeline in context.iter_pipelines() if padded else ():
        crops = [s.get('crop_size') for s in pipeline if get_type(s) == 'RandomCrop']
        crop = crops[-1] if crops and path.startswith('train') else padded
        if isinstance(crop, tuple | list) and 2 * np.prod(crop) < np.prod(padded):
            text = f'{path} crops to {crop}, and {key} pads these to {padded}'
            yield warning(f'{text}: {remedy({key: crop})}')


def check_randomness(context: Context) -> Iterator[Finding]:
    """An evaluation sees each image as it is."""
    for key, pipeline, types in _iter_evaluated(context):
        for i, (step, name) in enumerate(zip(pipeline, types)):
            is_random = name.startswith('Random') or name in RANDOM
            if is_random and step.get('prob') != 0 and not step.get('test_mode'):
                text = f'{key}.{i} is {name}, so an evaluation sees other images each'
                yield warning(f'{text} time, and labels may not fit: leave it out')


def _iter_evaluated(context):
    """Yield key, steps and names of the steps of each pipeline of the evaluation."""
    for key, pipeline in context.iter_pipelines():
        if key.startswith(context.parts[-1]):
            yield key, pipeline, [get_type(step) for step in pipeline]
