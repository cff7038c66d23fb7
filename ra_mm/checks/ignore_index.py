"""The ignored label of segmentation."""

import re
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_toolbox, get_type, get_value, iter_dicts

HEAD = re.compile(r'model\.\w+_head(\.\d+)?')
# Transforms that fill masks, and the argument with the value that they fill in.
FILLING = dict(Pad='pad_val.seg', RandomCrop='ignore_index', RandomRotate='seg_pad_val')
DEFAULT = 255  # of all of them, and of datasets, heads and metrics


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


def check_reduce_zero_label(context: Context) -> Iterator[Finding]:
    """All datasets number the classes alike."""
    name = 'reduce_zero_label'
    values = {e.key: getattr(e.dataset, name, False) for e in context.all_datasets}
    if len({*values.values()}) > 1:
        text = f'the datasets differ in {name}, so a value of a mask is another class'
        yield warning(f'{text}: {values}')


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
                if name := FILLING.get(get_type(step)):
                    yield f'{key}.{i}.{name}', get_value(step, name, DEFAULT)
    for key, node in context.iter_evaluators():
        if get_type(node) == 'IoUMetric':
            yield f'{key}.ignore_index', node.get('ignore_index', DEFAULT)
