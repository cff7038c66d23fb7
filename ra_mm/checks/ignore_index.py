"""The ignored label of segmentation, and the masks that an evaluation loads."""

import re
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy
from ra_mm.engine.config import get_toolbox, get_type, get_value, iter_dicts

HEAD = re.compile(r'model\.\w+_head(\.\d+)?')
# Transforms that fill masks, and the argument with the value that they fill in.
FILLING = {
    'Pad': 'pad_val.seg',
    'RandomCrop': 'ignore_index',
    'RandomRotate': 'seg_pad_val',
}
DEFAULT = 255  # of all of them, and of datasets, heads and metrics
RESIZING = ('Resize', 'RandomResize', 'ResizeToMultiple', 'Rerange')


def check_ignore_index(context: Context) -> Iterator[Finding]:
    """Datasets, heads, metric and padding agree about the ignored label."""
    nodes = dict(iter_dicts(context.cfg.model, 'model')).values()
    if get_toolbox(context.cfg) != 'mmseg' or not any(
        'num_classes' in n for n in nodes
    ):
        return  # depth estimation, for one
    values = {n.get('ignore_index', DEFAULT) for _, n in context.iter_nodes()}
    if len(values) > 1:
        yield error(f'the datasets have different ignore_index: {sorted(values)}')
    elif values:
        (value,) = values
        wrong = {key: value for key, found in _iter_settings(context) if found != value}
        if wrong:
            yield error(
                f'the datasets use ignore_index={value}, but other parts of the config '
                f'do not: {remedy(wrong)}'
            )


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
                name = FILLING.get(str(get_type(step)))
                if name:
                    yield f'{key}.{i}.{name}', get_value(step, name, DEFAULT)
    for key, node in context.iter_evaluators():
        is_used = key.startswith(context.parts[-1])
        if is_used and get_type(node) == 'IoUMetric':
            yield f'{key}.ignore_index', node.get('ignore_index', DEFAULT)


def check_evaluated_masks(context: Context) -> Iterator[Finding]:
    """An evaluation loads masks, and keeps their size: that of the predictions."""
    part = context.parts[-1]
    if get_toolbox(context.cfg) != 'mmseg':
        return
    has_metric = any(
        get_type(node) == 'IoUMetric' and not node.get('format_only')
        for key, node in context.iter_evaluators()
        if key.startswith(part)
    )
    for key, pipeline in context.iter_pipelines():
        if not key.startswith(part):
            continue
        types = [str(get_type(step)) for step in pipeline]
        resizing = [i for i, name in enumerate(types) if name in RESIZING]
        if 'LoadAnnotations' in types and resizing:
            i = types.index('LoadAnnotations')
            if i < resizing[0]:
                yield error(
                    f'{key} resizes the masks too, but predictions have the size of '
                    f'the image: put LoadAnnotations (step {i}) after '
                    f'{types[resizing[0]]} (step {resizing[0]})'
                )
        is_loaded = any('Load' in name and 'Ann' in name for name in types)
        if has_metric and not is_loaded and 'PackSegInputs' in types:
            yield error(f'{key} has no LoadAnnotations, which IoUMetric needs')
