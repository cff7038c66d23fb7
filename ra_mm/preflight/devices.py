"""Checks of processes, GPUs, compiled operators and the learning rate."""

import importlib.util
import os
from collections.abc import Iterator

import torch
from mmengine.config import Config

from ra_mm.cli import get_toolbox

from .config import get_value


def check_devices(cfg: Config, mode: str, warnings: list[str]) -> Iterator[str]:
    """Yield problems of the machine and the launcher; append to ``warnings``."""
    yield from _check_processes(cfg)
    if not torch.cuda.is_available():
        warnings.append(f'no GPU: {mode}ing on the CPU')
    if get_toolbox(cfg) == 'mmdet':
        yield from _check_operators()
    if mode == 'train':
        yield from _check_learning_rate(cfg, warnings)
        _warn_of_checkpoints_within_epochs(cfg, warnings)


def _check_processes(cfg):
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    local_size = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if cfg.launcher == 'none' and world_size > 1:
        yield (
            f'torchrun started {world_size} processes, which would run independently: '
            'pass --launcher pytorch'
        )
    if cfg.launcher == 'pytorch' and 'RANK' not in os.environ:
        yield (
            '--launcher pytorch needs torchrun: start the tool with '
            'torchrun --nproc_per_node=NUMBER_OF_GPUS instead of python'
        )
    if not torch.cuda.is_available():
        if cfg.launcher in ('slurm', 'mpi'):
            yield (
                f'--launcher {cfg.launcher} needs GPUs; without them, use torchrun '
                'and --launcher pytorch'
            )
    elif local_size > torch.cuda.device_count():
        yield (
            f'{local_size} processes for {torch.cuda.device_count()} GPU(s): '
            f'pass --nproc_per_node={torch.cuda.device_count()} to torchrun'
        )


def _check_operators():
    remedy = (
        'install an mmcv wheel for this version of torch and CUDA, or compile mmcv '
        'with --no-build-isolation'
    )
    if importlib.util.find_spec('mmcv._ext') is None:
        yield f'mmcv was built without its operators: {remedy}'
    elif torch.cuda.is_available():
        from mmcv.ops import get_compiling_cuda_version

        if get_compiling_cuda_version() == 'not available':
            yield (
                'mmcv was built without CUDA operators, but there is a GPU: '
                f"{remedy} where nvcc is, or hide the GPU with CUDA_VISIBLE_DEVICES=''"
            )


def _check_learning_rate(cfg, warnings):
    base = get_value(cfg, 'auto_scale_lr.base_batch_size')
    if not base:
        return
    steps = get_value(cfg, 'optim_wrapper.accumulative_counts', 1)
    per_gpu = get_value(cfg, 'train_dataloader.batch_size') or base
    processes = _world_size(cfg)
    images = per_gpu * processes * steps
    lr = get_value(cfg, 'optim_wrapper.optimizer.lr')
    option = '--cfg-options optim_wrapper.optimizer.lr='
    option += f'{lr * images / base:g}' if lr else 'NUMBER'
    if get_value(cfg, 'auto_scale_lr.enable'):
        if steps > 1:
            yield (
                f'--auto-scale-lr ignores accumulative_counts={steps}: leave it out '
                f'(auto_scale_lr.enable=False) and pass {option}'
            )
    elif images != base:
        times = f', accumulated {steps} times' if steps > 1 else ''
        warnings.append(
            f'the learning rate is meant for {base} images per step, this run has '
            f'{images} ({processes} process(es) with {per_gpu} each{times}): pass '
            f'{option}' + ('' if times else ' or --auto-scale-lr')
        )


def _world_size(cfg):
    variables = dict(
        pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE'
    )
    return int(os.environ.get(variables.get(cfg.launcher, ''), 1))


def _warn_of_checkpoints_within_epochs(cfg, warnings):
    by_epoch = get_value(cfg, 'default_hooks.checkpoint.by_epoch')
    if by_epoch is False and get_value(cfg, 'train_cfg.max_epochs'):
        warnings.append(
            'default_hooks.checkpoint.by_epoch=False saves within epochs: a resumed '
            'run repeats the epoch of its checkpoint from the first iteration, and '
            'so trains for more iterations in total'
        )
