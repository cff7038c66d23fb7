"""Estimate what a plan costs before it starts: GPU-hours, the longest chain, disk."""

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from ra_mm.analysis.complexity import count_config
from ra_mm.errors import UserError

from .job import make_job
from .ledger import Ledger
from .machine import REPO
from .plan import Run, Setting

IMAGES = {'mmpretrain': 1_281_167, 'mmdet': 117_266}  # of ImageNet-1K and COCO
# Parts of a GPU report with a step of ResNet-50 and of Faster R-CNN, and their
# operations (1e9) for an image.
MEASURED = {'train-fp32': ('mmpretrain', 4.12), 'detector': ('mmdet', 207.03)}
SECONDS_OF_LOADING = 2


@dataclass
class Estimate:
    """The cost of a run.

    Attributes:
        disk_gb: Size of the checkpoints that are kept, with momentum.
        hours: GPU-hours; None if there is nothing to estimate them from.
        taken_per_s: Images that its GPUs take in a second.
        loaded_per_s: Images that its workers load in a second, if it is a classifier:
            where this is less, it decides.
    """

    disk_gb: float
    hours: float | None = None
    taken_per_s: float = 0.0
    loaded_per_s: float = math.inf


def estimate_plan(
    plan: Mapping[str, Run], setting: Setting, ledger: Ledger, gpu: str
) -> dict[str, Estimate]:
    """Estimate the cost of each run that is not done.

    A finished run of the same row with another seed tells best. Else the time is
    that of a measured step of the plain ResNet-50, or Faster R-CNN, in proportion to
    the multiply-accumulates.

    Args:
        plan: Runs by id.
        setting: What the runs have in common.
        ledger: Says which runs are done, and what they took.
        gpu: A part of the name of a GPU in ``benchmarks/results``.

    Raises:
        UserError: If no such GPU was measured.
    """
    seconds, sizes, estimates = read_step_times(gpu), {}, {}
    per_core = 0.0  # images loaded in a second
    is_paper = setting.scale == 'full' and not setting.data
    for run in plan.values():
        if ledger.runs[run.id].status == 'done':
            continue
        cfg = make_job(run, setting).cfg
        backbone = cfg.model.backbone
        key = cfg.model.type, backbone.get('depth'), backbone.get('widen_factor')
        if key not in sizes:
            sizes[key] = count_config(cfg, is_paper)
        params, flops = sizes[key]
        steps = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
        hook = cfg.default_hooks.checkpoint
        kept = max(hook.get('max_keep_ckpts', -1), 0) or steps // hook.interval
        estimate = Estimate(kept * params * 8 / 1e3)
        if finished := ledger.seconds_of_others(run.id):
            estimate.hours = median(finished) / 3600 * setting.gpus
        elif is_paper:
            toolbox = cfg.default_scope if cfg.default_scope in IMAGES else 'mmdet'
            estimate.taken_per_s = setting.gpus / (flops * seconds[toolbox])
            loader = cfg.train_dataloader
            if cfg.default_scope == 'mmpretrain':
                per_core = per_core or measure_loading(cfg)
                estimate.loaded_per_s = per_core * loader.num_workers * setting.gpus
            of_step = loader.batch_size * setting.gpus
            images = steps * IMAGES.get(cfg.default_scope, of_step)
            speed = min(estimate.taken_per_s, estimate.loaded_per_s)
            estimate.hours = images / speed / 3600 * setting.gpus
        estimates[run.id] = estimate
    return estimates


def read_step_times(gpu: str) -> dict[str, float]:
    """Seconds of training for an image and 1e9 multiply-accumulates, by toolbox."""
    names, seconds = set(), {}
    for path in REPO.glob('benchmarks/results/*_gpu_report.json'):
        report = json.loads(path.read_text(encoding='utf-8'))
        names.add(report['environment']['gpu'])
        if gpu.lower() in report['environment']['gpu'].lower():
            for part in report['parts']:
                if part['name'] in MEASURED and part['results']:
                    (toolbox, flops), step = MEASURED[part['name']], part['results'][0]
                    ms = median(ms for ms, _ in step['results'][0]['pairs_ms'])
                    seconds[toolbox] = ms / 1e3 / step['batch'] / flops
    if len(seconds) < len(MEASURED):
        known = ', '.join(names) or 'none, since benchmarks/results is only in a clone'
        expected = f'expected a part of the name of one of {known}'
        raise UserError(f'--gpu-name {gpu}: {expected}')
    return seconds


def measure_loading(cfg: Config) -> float:
    """Images that a core of this machine decodes and augments in a second.

    Args:
        cfg: Config of a classifier; its pipeline gets a JPEG of 500x375 pixels, a
            usual size in ImageNet.
    """
    init_default_scope(cfg.default_scope)
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
    colors = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    cv2.setNumThreads(1)
    with tempfile.NamedTemporaryFile(suffix='.jpg') as file:
        cv2.imwrite(file.name, cv2.resize(colors, (500, 375)))
        images, start = 0, time.monotonic()
        while time.monotonic() - start < SECONDS_OF_LOADING:
            pipeline(dict(img_path=file.name, gt_label=0))
            images += 1
    return images / (time.monotonic() - start)


def print_plan(
    plan: Mapping[str, Run], estimates: Mapping[str, Estimate], setting: Setting
) -> None:
    """Print the cost of each run and of all, and whether the loaders limit them."""
    table = Table('Run', 'Needs', 'GPU-hours', 'Images a second', 'Disk', box=None)
    hours = {name: estimate.hours or 0 for name, estimate in estimates.items()}
    chains = [0.0]
    for run_id, estimate in estimates.items():
        needs = plan[run_id].needs
        chains.append(hours[run_id] + (hours.get(needs.id, 0) if needs else 0))
        is_slow = estimate.loaded_per_s < estimate.taken_per_s
        limit = f' (loaded: {estimate.loaded_per_s:.0f})' if is_slow else ''
        table.add_row(
            run_id,
            needs.id if needs else '',
            'unknown' if estimate.hours is None else f'{estimate.hours:.3g}',
            f'{estimate.taken_per_s:.0f}{limit}' if estimate.taken_per_s else '',
            f'{estimate.disk_gb:.2g} GB',
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table, highlight=False)
    print(
        f'\n{sum(hours.values()):.3g} GPU-hours in all; the longest chain takes '
        f'{max(chains) / setting.gpus:.3g} hours on {setting.gpus} GPUs; '
        f'{sum(e.disk_gb for e in estimates.values()):.3g} GB of checkpoints'
    )
