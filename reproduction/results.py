"""Read the results of a run, and its progress, from what it has logged."""

import json
import math
import os
import re
import signal
from pathlib import Path

from mmengine.config import Config

from . import paper
from .ledger import Entry

MAX_CURVE_POINTS = 300
LOG_TAIL_LINES = 20


def record_results(entry: Entry, work_dir: Path, cfg: Config) -> None:
    """Enter what a run has logged over all its restarts.

    These are the metrics of the last validation in percent, the curves, the
    memory; and the error, if the run came to its end in vain.

    Args:
        entry: Entry of the run.
        work_dir: Folder of the run.
        cfg: Config of the run.
    """
    train, val = _read_scalars(work_dir, cfg)
    names = paper.logged_metrics()[cfg.default_scope].values()
    last = val.get(_last_step(cfg))
    entry.error = _find_error(train, last, next(iter(names)))
    entry.metrics = {} if entry.error else last
    logged = sorted({key for scalars in train.values() for key in scalars})
    kept = [k for k in logged if k in ('loss', 'lr', 'temp') or k.startswith('G_')]
    curves = {key: _curve(train, key) for key in kept}
    curves |= {f'val/{name}': _curve(val, name) for name in names}
    entry.curves = {key: curve for key, curve in curves.items() if curve}
    memory = [scalars['memory'] for scalars in train.values() if 'memory' in scalars]
    entry.peak_memory_mb = max(memory, default=None)


def is_validated(work_dir: Path, cfg: Config) -> bool:
    """Whether a run was validated after its last iteration."""
    return _last_step(cfg) in _read_scalars(work_dir, cfg)[1]


def _last_step(cfg):
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters


def _read_scalars(work_dir, cfg):
    """Read logged values by step: of the training, and metrics in percent."""
    train, val = {}, {}
    names = paper.logged_metrics()[cfg.default_scope]
    factor = 100 if cfg.default_scope == 'mmdet' else 1  # mmdet logs fractions
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the process was killed while it wrote this line
            # A restart logs the steps after its checkpoint again; the later
            # entry replaces the earlier one.
            if 'loss' in entry:
                train[entry['step']] = entry
            else:
                val[entry['step']] = {
                    names[key]: round(value * factor, 4)
                    for key, value in entry.items()
                    # COCO reports -1 if there was nothing to find.
                    if key in names and math.isfinite(value) and value >= 0
                }
    return train, val


def _find_error(train, validation, main_metric):
    loss = train[max(train)]['loss'] if train else 0
    if not math.isfinite(loss):
        return f'training has diverged: the last loss is {loss}'
    if validation is None:
        return 'not validated after the last iteration'
    if main_metric not in validation:
        nothing = ': the model detects nothing' if main_metric == 'AP' else ''
        return f'the last validation has no {main_metric}{nothing}'
    return None


def _curve(entries, key):
    """Sort by step and keep at most ``MAX_CURVE_POINTS``, among them the last."""
    points = [
        [step, float(f'{entry[key]:.5g}')]
        for step, entry in sorted(entries.items())
        if key in entry and math.isfinite(entry[key])
    ]
    stride = math.ceil(len(points) / MAX_CURVE_POINTS) or 1
    return points[::-1][::stride][::-1]


def read_tail(log: Path) -> str:
    """The last lines of a log."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    return '\n'.join(lines[-LOG_TAIL_LINES:])


def describe_exit(status: int, log: Path) -> str:
    """Say why a training has failed, with the end of its log."""
    tail = read_tail(log)
    reason = f'tools/train.py exited with status {status}'
    if status == -signal.SIGKILL or re.search('out of memory|OutOfMemory', tail):
        reason += ', probably out of memory: try fewer --jobs or more --gpus'
    return f'{reason}:\n{tail}'


def find_gpu(log: Path) -> str | None:
    """The GPU of the machine that trained, as mmengine has logged it."""
    text = log.read_text(encoding='utf-8', errors='replace')
    gpu = re.search(r'^ *GPU [\d,]+: (.+)$', text, re.M)
    return gpu[1].strip() if gpu else None


def fraction_done(log: Path, cfg: Config) -> float:
    """The fraction of a run's iterations that its log reports."""
    with open(log, 'rb') as file:
        file.seek(max(0, os.path.getsize(log) - 20000))
        text = file.read().decode(errors='replace')
    head = r'(?:Epoch\(train\)\s*\[\s*(\d+)\]|Iter\(train\)\s*)'
    steps = re.findall(head + r'\[\s*(\d+)/(\d+)\]', text)
    if not steps:
        return 0.0
    epoch, iteration, iterations = steps[-1]
    fraction = int(iteration) / int(iterations)
    if epoch:
        fraction = (int(epoch) - 1 + fraction) / cfg.train_cfg.max_epochs
    return fraction
