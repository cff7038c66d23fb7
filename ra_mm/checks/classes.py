"""The classes of the datasets, against num_classes and palettes."""

import re
from collections.abc import Iterator
from pathlib import Path

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy
from ra_mm.engine.config import get_toolbox, get_type, get_value, iter_dicts
from ra_mm.validation import shorten

# The heads whose num_classes is the number of classes of the data.
HEAD = re.compile(
    r'model\.(roi_head\.)?(bbox_head|mask_head|decode_head|auxiliary_head|head)(\.\d+)?'
)


def check_num_classes(context: Context) -> Iterator[Finding]:
    """All datasets have the same classes, and the model has their number."""
    cfg = context.cfg
    named = ((e.key, _get_classes(e.dataset)) for e in context.all_datasets)
    classes = {key: names for key, names in named if names}
    if len(set(classes.values())) > 1:
        lists = (f'{key} has {shorten(names)}' for key, names in classes.items())
        yield error(f'the datasets have different classes: {"; ".join(lists)}')
    elif classes:
        key, names = next(iter(classes.items()))
        wrong: dict = {}
        for head, node in iter_dicts(cfg.model, 'model'):
            if HEAD.fullmatch(head):
                wrong.update(_find_wrong_numbers(head, node, len(names)))
        n = get_value(cfg, 'data_preprocessor.num_classes', len(names))
        # Only mixing images uses the number of the preprocessor.
        if n != len(names) and (wrong or get_value(cfg, 'model.train_cfg.augments')):
            wrong['data_preprocessor.num_classes'] = len(names)
        if wrong:
            text = f'{key} has {len(names)} classes {shorten(names)}, the model another'
            yield error(f'{text} number: {remedy(wrong)}')


def _get_classes(dataset):
    """Return the names of the classes that a model of this dataset predicts."""
    # The box heads of panoptic models predict only the things.
    names = dataset.metainfo.get('thing_classes', dataset.metainfo.get('classes'))
    if names is None and getattr(dataset, 'with_label', False) and not dataset.ann_file:
        folders = sorted(Path(dataset.img_prefix).glob('[!.]*'))
        names = [p.name for p in folders if p.is_dir() and not p.name.startswith('__')]
    return tuple(names or ())


def _find_wrong_numbers(head, node, count):
    """Yield the options that make the numbers of classes in a head right."""
    if node.get('num_classes', count) != count:
        yield f'{head}.num_classes', count
    if node.get('out_channels') == node.get('num_classes', 0) != count:
        yield f'{head}.out_channels', count
    for key, loss in iter_dicts(dict(node), head):
        weights = loss.get('class_weight')
        if not isinstance(weights, list | tuple):
            continue
        # The last one of mmdet's and Mask2Former's loss_cls is no class.
        others = list(weights[-1:]) if 'loss_cls' in key else []
        if len(weights) - len(others) != count and len(weights) != count:
            yield f'{key}.class_weight', [1.0] * count + others


def check_single_class(context: Context) -> Iterator[Finding]:
    """mmseg's softmax over one class is always 1, and its loss 0."""
    nodes = iter_dicts(context.cfg.model, 'model')
    for head, node in nodes if get_toolbox(context.cfg) == 'mmseg' else ():
        losses = node.get('loss_decode') if node.get('num_classes') == 1 else None
        for key, loss in iter_dicts(losses, f'{head}.loss_decode'):
            if get_type(loss) == 'CrossEntropyLoss' and not loss.get('use_sigmoid'):
                text = f'{head}.num_classes=1, for which {key} is always 0'
                yield error(f'{text}: give the background a class of its own')


def check_palettes(context: Context) -> Iterator[Finding]:
    """A palette has a colour for each class; drawing fails otherwise."""
    is_mmseg = get_toolbox(context.cfg) == 'mmseg'
    for entry in context.all_datasets:
        own = entry.dataset.metainfo  # without the palette of the config
        palette = get_value(entry.node, 'metainfo.palette', own.get('palette'))
        count = len(own.get('classes') or ())
        if isinstance(palette, list | tuple) and palette and count:
            # mmseg takes the colours of some of the classes of a dataset.
            is_longer = is_mmseg and not getattr(entry.dataset, 'label_map', None)
            if len(palette) < count or (is_longer and len(palette) != count):
                key = f'{entry.key}.metainfo.palette'
                text = f'{key} has {len(palette)} colours for {count} classes'
                yield error(f'{text}: {remedy({key: [] if is_mmseg else None})}')
