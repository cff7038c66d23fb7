"""The length of a training, against its validation and schedules."""

import math
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_type, get_value

# Schedules that reach their lowest learning rate at their end.
DECAYING = ('CosineAnnealing', 'Poly', 'OneCycle')


def check_val_begin(context: Context) -> Iterator[Finding]:
    """A training ends with a validation."""
    cfg = context.cfg
    begin = get_value(cfg, 'train_cfg.val_begin', 1)
    end = max(get_value(cfg, f'train_cfg.max_{u}', 0) for u in ('epochs', 'iters'))
    if cfg.get('val_dataloader') is not None and begin > end > 0:
        yield error(
            f'train_cfg.val_begin={begin}: the training ends at {end}, without a '
            f'validation; {remedy({"train_cfg.val_begin": end})}'
        )


def check_decay(context: Context) -> Iterator[Finding]:
    """The learning rate decays until the end of the training, and not beyond."""
    by_epoch = get_value(context.cfg, 'train_cfg.max_iters') is None
    key = 'train_cfg.max_epochs' if by_epoch else 'train_cfg.max_iters'
    unit = 'epoch' if by_epoch else 'iteration'
    end = get_value(context.cfg, key)
    # The length of an epoch is not known.
    nodes = {
        path: node
        for path, node in _iter_schedulers(context.cfg)
        if bool(node.get('by_epoch', True)) == by_epoch
    }
    if not end:
        return
    ends, options = [], {}
    for path, node in nodes.items():
        late = [m for m in node.get('milestones', ()) if m > end]
        if late:
            yield warning(
                f'{path}.milestones={node.milestones}: the training ends before, at '
                f'{key}={end}'
            )
        if str(get_type(node)).startswith(DECAYING):
            stop, changes = _get_end(node, end)
            ends.append(stop)
            options.update({f'{path}.{name}': value for name, value in changes.items()})
    # Some configs end a little earlier on purpose, at the lowest learning rate.
    last = max(filter(math.isfinite, ends), default=end)
    is_continued = any(last <= node.get('begin', 0) < end for node in nodes.values())
    if not 0.9 * end <= last <= 1.1 * end and not is_continued:
        effect = 'has not decayed at the end'
        if last < end:
            effect = f'stays at its last value from {unit} {last} on'
        yield warning(
            f'the learning rate {effect}: the schedule ends after {last} {unit}s, the '
            f'training after {end} ({key}); {remedy(options)}'
        )


def _iter_schedulers(cfg):
    found = cfg.get('param_scheduler')
    if isinstance(found, dict) and get_type(found):
        yield 'param_scheduler', found
    elif isinstance(found, list | tuple):
        for i, node in enumerate(found):
            if isinstance(node, dict):
                yield f'param_scheduler.{i}', node


def _get_end(node, end):
    """Return where a schedule ends, and the arguments that let it end at ``end``."""
    begin, changes = node.get('begin', 0), {'end': end}
    length = math.inf
    for name in ('total_steps', 'T_max'):
        if node.get(name):
            length = node[name]
            changes[name] = end - begin
    return min(node.get('end') or math.inf, begin + length), changes
