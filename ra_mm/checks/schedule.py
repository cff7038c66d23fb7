"""The length of a training and its learning rate, against schedules and batches."""

import math
import os
from collections.abc import Iterator

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_type, get_value, iter_dicts

# Schedules that reach their lowest learning rate at their end.
DECAYING = ('CosineAnnealing', 'Poly', 'OneCycle')
# The variable with the number of processes, by launcher.
WORLD_SIZE = dict(
    pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE'
)


def check_val_begin(context: Context) -> Iterator[Finding]:
    """A training ends with a validation."""
    cfg = context.cfg
    begin = get_value(cfg, 'train_cfg.val_begin', 1)
    end = max(get_value(cfg, f'train_cfg.max_{u}', 0) for u in ('epochs', 'iters'))
    if cfg.get('val_dataloader') is not None and begin > end > 0:
        text = f'train_cfg.val_begin={begin}: the training ends at {end}, without a'
        yield error(f'{text} validation; {remedy({"train_cfg.val_begin": end})}')


def check_saving(context: Context) -> Iterator[Finding]:
    """A training without epochs is saved before its end."""
    key = 'default_hooks.checkpoint'
    hook = get_value(context.cfg, key) or dict(by_epoch=False)
    if get_value(context.cfg, 'train_cfg.max_iters') and hook.get('by_epoch', True):
        options = remedy({f'{key}.by_epoch': False, f'{key}.interval': 1000})
        yield warning(f'without epochs, nothing is saved before the end: {options}')


def check_decay(context: Context) -> Iterator[Finding]:
    """The learning rate decays until the end of the training, and not beyond."""
    by_epoch = get_value(context.cfg, 'train_cfg.max_iters') is None
    unit = 'epoch' if by_epoch else 'iteration'
    key = 'train_cfg.max_epochs' if by_epoch else 'train_cfg.max_iters'
    end = get_value(context.cfg, key)
    if not end:
        return
    found = iter_dicts(context.cfg.get('param_scheduler'), 'param_scheduler')
    # The length of an epoch is not known.
    nodes = {k: v for k, v in found if bool(v.get('by_epoch', True)) == by_epoch}
    ends, options = [], {}
    for path, node in nodes.items():
        if any(m > end for m in node.get('milestones', ())):
            late = f'{path}.milestones={node["milestones"]}'
            yield warning(f'{late}: the training ends before, at {key}={end}')
        kind = get_type(node)
        if node.get('begin', 0) >= end:
            yield warning(f'{path}.begin is not before the end, {key}={end}')
        elif kind.startswith(('Linear', 'Constant')) and node.get('end', 0) > end:
            advice = {f'{path}.by_epoch': False} if by_epoch else {f'{path}.end': end}
            text = f'{path}.end={node["end"]} is after the end, {key}={end}'
            yield warning(f'{text}: {remedy(advice)}')
        elif kind.startswith(DECAYING):
            begin, length = node.get('begin', 0), math.inf
            options[f'{path}.end'] = end
            for name in ('total_steps', 'T_max'):
                if node.get(name):
                    length = node[name]
                    options[f'{path}.{name}'] = end - begin
            ends.append(min(node.get('end') or math.inf, begin + length))
    # Some configs end a little earlier on purpose, at the lowest learning rate.
    last = max(filter(math.isfinite, ends), default=end)
    is_continued = any(last <= node.get('begin', 0) < end for node in nodes.values())
    if nodes and not 0.9 * end <= last <= 1.1 * end and not is_continued:
        text = f'the learning rate has its last value after {last} {unit}s, but the'
        yield warning(f'{text} training ends after {end} ({key}); {remedy(options)}')


def check_learning_rate(context: Context) -> Iterator[Finding]:
    """The learning rate is meant for the number of images per step."""
    cfg, key = context.cfg, 'optim_wrapper.optimizer.lr'
    base = get_value(cfg, 'auto_scale_lr.base_batch_size')
    steps = get_value(cfg, 'optim_wrapper.accumulative_counts', 1)
    per_gpu = get_value(cfg, 'train_dataloader.batch_size') or base
    processes = int(os.environ.get(WORLD_SIZE.get(cfg.launcher, ''), 1))
    if not base or per_gpu * processes * steps == base:
        return
    images, lr = per_gpu * processes * steps, get_value(cfg, key)
    options: dict = {key: f'{lr * images / base:g}' if lr else 'NUMBER'}
    if not cfg.auto_scale_lr.get('enable'):
        factors = f'{processes} process(es) x {per_gpu} images x {steps} accumulated'
        advice = remedy(options) + ('' if steps > 1 else ' or --auto-scale-lr')
        text = f'is meant for {base} images per step, this run has {images}'
        yield warning(f'the learning rate {text} ({factors} batches): {advice}')
    elif steps > 1:
        text = f'auto_scale_lr.enable=True ignores accumulative_counts={steps}'
        yield error(f'{text}: {remedy({**options, "auto_scale_lr.enable": False})}')
