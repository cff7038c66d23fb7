"""Reads metrics, curves, memory and progress from the logs of a run."""

import json
import math
import os
import re
from pathlib import Path

from mmengine.config import Config

# The toolboxes' names of the metrics of paper.yml. A run without the first
# metric of its toolbox has failed.
METRIC_NAMES = dict(
    mmpretrain={'accuracy/top1': 'top1', 'accuracy/top5': 'top5'},
    mmdet={
        'coco/bbox_mAP': 'AP',
        'coco/bbox_mAP_50': 'AP50',
        'coco/bbox_mAP_s': 'APs',
        'coco/bbox_mAP_m': 'APm',
        'coco/bbox_mAP_l': 'APl',
        'coco/segm_mAP': 'AP_mask',
    },
    mmseg={'mIoU': 'mIoU'},
)
MAX_CURVE_POINTS = 300
LOG_TAIL_LINES = 20


def collect(work_dir: Path, cfg: Config) -> dict:
    """Read what a run has logged over all its restarts.

    Args:
        work_dir: Folder of the run.
        cfg: Config of the run.

    Returns:
        ``metrics`` of the last validation in percent, ``curves``,
        ``peak_memory_mb`` and ``error``, all as in the ledger; and
        ``validated``, whether it was validated after its last iteration.
    """
    train, val = {}, {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the process was killed while it wrote this line
            # A restart logs the steps after its checkpoint again; the later
            # entry replaces the earlier one.
            (train if 'loss' in entry else val)[entry['step']] = entry

    names = METRIC_NAMES[cfg.default_scope]
    factor = 100 if cfg.default_scope == 'mmdet' else 1  # mmdet logs fractions
    curves = {}
    for key in sorted({key for entry in train.values() for key in entry}):
        if key in ('loss', 'lr', 'temp') or key.startswith('G_'):
            curves[key] = _thin(
                (step, entry[key]) for step, entry in train.items() if key in entry
            )
    for key, name in names.items():
        points = [
            (step, entry[key] * factor)
            for step, entry in val.items()
            if _is_valid(entry.get(key))
        ]
        if points:
            curves[f'val/{name}'] = _thin(points)

    last = val.get(cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters, {})
    error = _find_error(train, last, next(iter(names)))
    metrics = {
        name: round(last[key] * factor, 4)
        for key, name in names.items()
        if _is_valid(last.get(key))
    }
    memory = [entry['memory'] for entry in train.values() if 'memory' in entry]
    return dict(
        validated=bool(last),
        metrics={} if error else metrics,
        curves=curves,
        peak_memory_mb=max(memory, default=None),
        error=error,
    )


def _find_error(train, last_validation, main_metric):
    loss = train[max(train)]['loss'] if train else 0
    if not math.isfinite(loss):
        return f'training has diverged: the last loss is {loss}'
    if not last_validation:
        return 'not validated after the last iteration'
    if not _is_valid(last_validation.get(main_metric)):
        nothing = ': the model detects nothing' if 'coco' in main_metric else ''
        return f'the last validation has no {main_metric}{nothing}'
    return None


def _is_valid(value):
    """Whether this is a number; COCO reports -1 if there was nothing to find."""
    return value is not None and math.isfinite(value) and value >= 0


def _thin(points):
    """Sort by step and keep at most ``MAX_CURVE_POINTS``, among them the last."""
    points = [
        [step, float(f'{value:.5g}')]
        for step, value in sorted(points)
        if math.isfinite(value)
    ]
    stride = math.ceil(len(points) / MAX_CURVE_POINTS) or 1
    return points[::-1][::stride][::-1]


def read_tail(log: Path) -> str:
    """The last lines of a log."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    return '\n'.join(lines[-LOG_TAIL_LINES:])


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
    found = re.findall(
        r'(?:Epoch\(train\)\s*\[\s*(\d+)\]|Iter\(train\)\s*)\[\s*(\d+)/(\d+)\]', text
    )
    if not found:
        return 0.0
    epoch, iteration, iterations = found[-1]
    fraction = int(iteration) / int(iterations)
    if epoch:
        fraction = (int(epoch) - 1 + fraction) / cfg.train_cfg.max_epochs
    return fraction
