"""The ignored label of segmentation, and the masks that an evaluation loads."""

import re
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy
from ra_mm.engine.config import get_toolbox, get_type, get_value, iter_dicts

HEAD = re.compile(r'model\.\w+_head(\.\d+)?')
# Transforms that fill masks, and the argument with the value that they fill in.
FILLING = dict(Pad='pad_val.seg', RandomCrop='ignore_index', RandomRotate='seg_pad_val')
DEFAULT = 255  # of all of them, and of datasets, heads and metrics
RESIZING = ('Resize', 'RandomResize', 'ResizeToMultiple', 'Rerange')


def check_ignore_index(context: Context) -> Iterator[Finding]:
    """Datasets, heads, metric and padding agree about the ignored label."""
    nodes = iter_dicts(context.cfg.model, 'model')
    is_mmseg = get_toolbox(context.cfg) == 'mmseg'
    if not is_mmseg or not any('num_classes' in node for _, node in nodes):
        return  # depth estimation, for one
    values = {n.get('ignore_index', DEFAULT) for _, n in context.iter_nodes()}
    if len(values) > 1:
        yield error(f'the datasets have different ignore_index: {sorted(values)}')
    for value in values if len(values) == 1 else ():
        wrong = {key: value for key, found in _iter_settings(context) if found != value}
        if wrong:
            text = f'the datasets use ignore_index={value}, but other parts do not'
            yield error(f'{text}: {remedy(wrong)}')


def _iter_settings(context):
    """Yield each key outside of datasets that sets the ignored label, and its value."""
    cfg = context.cfg
    if context.mode != 'test':
        for key, node in iter_dicts(cfg.model, 'model'):
            if HEAD.fullmatch(key) and get_type(node) and 'num_classes' in node:
                yield f'{key}.ignore_index', node.get('ignore_index', DEFAULT)
        key = 'model.data_preprocessor.seg_pad_val'
        if get_value(cfg, key) is not None:
            yield key, get_value(cfg, key)
        for key, pipeline in context.iter_pipelines():
            for i, step in enumerate(pipeline if key.startswith('train') else ()):
                if name := FILLING.get(str(get_type(step))):
                    yield f'{key}.{i}.{name}', get_value(step, name, DEFAULT)
    for key, node in _iter_iou_metrics(context):
        yield f'{key}.ignore_index', node.get('ignore_index', DEFAULT)


def _iter_iou_metrics(context):
    for key, node in context.iter_evaluators():
        if key.startswith(context.parts[-1]) and get_type(node) == 'IoUMetric':
            yield key, node


def check_evaluated_masks(context: Context) -> Iterator[Finding]:
    """An evaluation loads masks, and keeps their size: that of the predictions."""
    if get_toolbox(context.cfg) != 'mmseg':
        return
    metrics = [n for _, n in _iter_iou_metrics(context) if not n.get('format_only')]
    for key, _, dataset in context.all_datasets if metrics else ():
        if key.startswith(context.parts[-1]) and not dataset.metainfo.get('classes'):
            yield error(f'{key}.metainfo has no classes, which IoUMetric needs')
    for key, pipeline in context.iter_pipelines():
        if not key.startswith(context.parts[-1]):
            continue
        types = [str(get_type(step)) for step in pipeline]
        resizing = [i for i, name in enumerate(types) if name in RESIZING]
        if 'LoadAnnotations' in types[: min(resizing, default=0)]:
            i, j = types.index('LoadAnnotations'), resizing[0]
            text = f'{key} resizes the masks too, but predictions have the size of the'
            text += f' image: put LoadAnnotations (step {i}) after {types[j]}'
            yield error(f'{text} (step {j})')
        is_loaded = any('Load' in name and 'Ann' in name for name in types)
        if metrics and not is_loaded and 'PackSegInputs' in types:
            yield error(f'{key} has no LoadAnnotations, which IoUMetric needs')
