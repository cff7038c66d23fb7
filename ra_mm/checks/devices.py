"""Checks of processes, GPUs, compiled operators and the learning rate."""

import importlib.util
import os
from collections.abc import Iterator

import torch
from mmengine.config import Config

from ra_mm.engine.config import get_toolbox, get_value


def check_devices(cfg: Config, mode: str, warnings: list[str]) -> Iterator[str]:
    """Yield problems of the machine and the launcher; append to ``warnings``."""
    yield from _check_processes(cfg)
    if not torch.cuda.is_available():
        warnings.append(f'no GPU: {mode}ing on the CPU')
    if get_toolbox(cfg) == 'mmdet':
        yield from _check_operators()
    if mode == 'train' and get_value(cfg, 'auto_scale_lr.base_batch_size'):
        yield from _check_learning_rate(cfg, warnings)


def _check_processes(cfg):
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    if cfg.launcher == 'none' and world_size > 1:
        yield f'{world_size} processes would run independently: pass --launcher pytorch'
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        yield '--launcher pytorch: start the tool with torchrun instead of python'


def _check_operators():
    remedy = 'install an mmcv wheel for this version of torch and CUDA'
    if importlib.util.find_spec('mmcv._ext') is None:
        own = 'run `python -m ra_mm.mmcv_ops install`'
        yield f'mmcv has no compiled operators: {own}, or {remedy}'
    elif torch.cuda.is_available():
        from mmcv.ops import get_compiling_cuda_version

        if get_compiling_cuda_version() == 'not available':
            hide = "hide the GPU with CUDA_VISIBLE_DEVICES=''"
            yield f'mmcv has no CUDA operators for the GPU: {remedy}, or {hide}'


def _check_learning_rate(cfg, warnings):
    base = cfg.auto_scale_lr.base_batch_size
    steps = get_value(cfg, 'optim_wrapper.accumulative_counts', 1)
    per_gpu = get_value(cfg, 'train_dataloader.batch_size') or base
    processes = _world_size(cfg)
    images = per_gpu * processes * steps
    lr = get_value(cfg, 'optim_wrapper.optimizer.lr')
    option = '--cfg-options optim_wrapper.optimizer.lr='
    option += f'{lr * images / base:g}' if lr else 'NUMBER'
    if cfg.auto_scale_lr.get('enable'):
        if steps > 1:
            ignored = f'auto_scale_lr.enable=True ignores accumulative_counts={steps}'
            yield f'{ignored}: pass {option} auto_scale_lr.enable=False'
    elif images != base:
        warnings.append(
            f'the learning rate is meant for {base} images per step, this run has '
            f'{images} ({processes} process(es) x {per_gpu} images x {steps} '
            f'accumulated batches): pass {option}'
            + ('' if steps > 1 else ' or --auto-scale-lr')
        )


def _world_size(cfg):
    mpi = 'OMPI_COMM_WORLD_SIZE'
    variables = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi=mpi)
    return int(os.environ.get(variables.get(cfg.launcher, ''), 1))
