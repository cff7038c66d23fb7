"""Processes, GPUs, compiled operators and the learning rate."""

import importlib.util
import os
from collections.abc import Iterator

import torch

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy, warning
from ra_mm.engine.config import get_toolbox, get_value

# The variable with the number of processes, by launcher.
WORLD_SIZE = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS'}
WORLD_SIZE['mpi'] = 'OMPI_COMM_WORLD_SIZE'


def check_processes(context: Context) -> Iterator[Finding]:
    """Processes that belong together know of each other, and have a GPU."""
    launcher = context.cfg.launcher
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    if launcher == 'none' and world_size > 1:
        yield error(
            f'{world_size} processes would run independently: pass --launcher pytorch'
        )
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        yield error('--launcher pytorch: start the tool with torchrun, not with python')
    if not torch.cuda.is_available():
        yield warning(f'no GPU: {context.mode}ing on the CPU')


def check_compiled_operators(context: Context) -> Iterator[Finding]:
    """Detectors have mmcv's compiled operators."""
    source = 'install an mmcv wheel for this version of torch and CUDA'
    if get_toolbox(context.cfg) != 'mmdet':
        return
    if importlib.util.find_spec('mmcv._ext') is None:
        own = 'run `python -m ra_mm.mmcv_ops install`'
        yield error(f'mmcv has no compiled operators: {own}, or {source}')
    elif torch.cuda.is_available():
        from mmcv.ops import get_compiling_cuda_version

        if get_compiling_cuda_version() == 'not available':
            hide = "hide the GPU with CUDA_VISIBLE_DEVICES=''"
            yield error(f'mmcv has no CUDA operators for the GPU: {source}, or {hide}')


def check_learning_rate(context: Context) -> Iterator[Finding]:
    """The learning rate is meant for the number of images per step."""
    cfg = context.cfg
    base = get_value(cfg, 'auto_scale_lr.base_batch_size')
    if not base:
        return
    steps = get_value(cfg, 'optim_wrapper.accumulative_counts', 1)
    per_gpu = get_value(cfg, 'train_dataloader.batch_size') or base
    processes = int(os.environ.get(WORLD_SIZE.get(cfg.launcher, ''), 1))
    images = per_gpu * processes * steps
    lr = get_value(cfg, 'optim_wrapper.optimizer.lr')
    key = 'optim_wrapper.optimizer.lr'
    options: dict = {key: f'{lr * images / base:g}' if lr else 'NUMBER'}
    if cfg.auto_scale_lr.get('enable'):
        if steps > 1:
            options['auto_scale_lr.enable'] = False
            yield error(
                f'auto_scale_lr.enable=True ignores accumulative_counts={steps}: '
                f'{remedy(options)}'
            )
    elif images != base:
        yield warning(
            f'the learning rate is meant for {base} images per step, this run has '
            f'{images} ({processes} process(es) x {per_gpu} images x {steps} '
            f'accumulated batches): {remedy(options)}'
            + ('' if steps > 1 else ' or --auto-scale-lr')
        )
