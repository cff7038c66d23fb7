"""Distributed training on CPUs, for tests and trials."""

import logging
import os
import sys

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from ra_mm.engine.config import iter_dicts

SLURM_VARIABLES = dict(
    RANK='SLURM_PROCID', LOCAL_RANK='SLURM_LOCALID', WORLD_SIZE='SLURM_NTASKS'
)


def use_gloo(cfg: Config) -> None:
    """Change a config so that its processes communicate by gloo.

    mmengine's Runner would select a CUDA device in each process and pass
    device ids to DDP. SyncBN needs GPUs, so BN replaces it. (mmengine itself
    does so in a single process.)
    """
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    # mmengine sets these for the launcher slurm, but selects a CUDA device as well.
    for name, of_slurm in SLURM_VARIABLES.items():
        if of_slurm in os.environ:
            os.environ.setdefault(name, os.environ[of_slurm])
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    wrapper = ConfigDict(type='MMDistributedDataParallel', broadcast_buffers=False)
    wrapper.find_unused_parameters = cfg.get('find_unused_parameters', False)
    cfg.setdefault('model_wrapper_cfg', wrapper).device_ids = None
    is_synced = cfg.pop('sync_bn', None)
    for _, node in iter_dicts(cfg.model):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = is_synced = 'BN'
    if is_synced:
        print_log('SyncBN needs GPUs: BN replaces it.', 'current', logging.WARNING)


def end_processes() -> None:
    """Exit at once after a barrier, if the processes communicate by gloo.

    gloo's threads can abort or hang a process while Python shuts down, so that
    shutdown is skipped.
    """
    dist = torch.distributed
    if dist.is_initialized() and dist.get_backend() == 'gloo':
        dist.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
