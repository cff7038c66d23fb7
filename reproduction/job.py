"""Turn a run into a job: its config, its initial weights and its command line."""

import logging
import os
import socket
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed

from ra_mm.fileio import atomic_write
from ra_mm.models import build_model

from .demo import shrink
from .finetune import load_trained, make_variant
from .machine import REPO
from .plan import Run, Setting
from .user_data import set_data_folder, shapes_folder


@dataclass(frozen=True)
class Job:
    """How a run is trained.

    Attributes:
        cfg: The config, without the options in ``command``.
        file: The config file that ``command`` reads.
        is_paper_config: Whether ``file`` is the row's own, without changes.
            Any other must be written first.
        command: The command line.
        checkpoint: The checkpoint after the last iteration.
        scaling: How ``--auto-scale-lr`` changes the learning rate, if it does.
        initial: The file of initial weights that the run loads, if any. It
            must be written first.
        weights: The file of trained weights that ``initial`` is made from, if any.
    """

    cfg: Config
    file: Path
    is_paper_config: bool
    command: list[str]
    checkpoint: Path
    scaling: str | None = None
    initial: Path | None = None
    weights: Path | None = None

    def write_files(self) -> None:
        """Write the files that the command reads, where they are missing."""
        if not self.is_paper_config:
            with atomic_write(self.file) as file:
                file.write(self.cfg.pretty_text)
        if self.initial and not self.initial.exists():
            write_initial_weights(self.cfg, self.initial, self.weights)


def make_job(run: Run, setting: Setting) -> Job:
    """Prepare a run without writing anything."""
    is_paper_config = setting.scale == 'full' and setting.data is None
    cfg = Config.fromfile(run.config)
    if not is_paper_config:
        _adapt(cfg, setting)
        if run.variant:
            make_variant(cfg, run.variant)
    options: dict[str, Any] = {'randomness.seed': run.seed}
    if has_gates(cfg):
        options['default_hooks.gates.type'] = 'ra_mm.GateLogHook'
        if not is_paper_config:
            interval = min(50, cfg.default_hooks.logger.interval)
            options['default_hooks.gates.interval'] = interval
    if run.needs:
        options.update(_start_from(make_job(run.needs, setting).checkpoint, cfg))

    work_dir = setting.work_dir(run)
    initial = work_dir / 'initial.pth' if setting.data else None
    if initial:
        options['load_from'] = display_path(initial)
    file = run.config if is_paper_config else work_dir / 'config.py'
    command = [*_launch(setting, cfg), display_path(REPO / 'tools/train.py')]
    command += [display_path(file), '--work-dir', display_path(work_dir)]
    command.append('--auto-scale-lr')
    if setting.launcher != 'none':
        command += ['--launcher', setting.launcher]
    if is_paper_config:
        command += ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    else:
        cfg.merge_from_dict(options)
    loop = cfg.train_cfg
    unit = 'epoch' if 'max_epochs' in loop else 'iter'
    last = work_dir / f'{unit}_{loop[f"max_{unit}s"]}.pth'
    scaling = _describe_scaling(cfg, setting.gpus)
    others = scaling, initial, setting.weights
    return Job(cfg, file, is_paper_config, command, last, *others)


def _adapt(cfg, setting):
    """Fit a config to the scale, the user's data and the user's options."""
    if setting.scale == 'demo':
        shrink(cfg, own_data=setting.data is not None)
    is_detection = cfg.default_scope != 'mmpretrain'
    shapes = shapes_folder(setting.folder / 'data', is_detection)
    set_data_folder(cfg, setting.data or shapes)
    if setting.data and cfg.model.backbone.get('frozen_stages', -1) > 0:
        # A frozen attention would stay untrained; all rows are treated alike.
        cfg.model.backbone.frozen_stages = 0
    cfg.merge_from_dict(dict(setting.options))


def has_gates(cfg: Config) -> bool:
    """Whether the model has reverse attention."""
    backbone = cfg.model.backbone
    attention = backbone.get('attention') or {}
    return (
        backbone.type.startswith('ra_mm.')
        and attention.get('type', 'ra_mm.ReverseAttention') == 'ra_mm.ReverseAttention'
    )


def _describe_scaling(cfg, gpus):
    """Say how ``--auto-scale-lr`` changes the learning rate; None if it does not."""
    base = cfg.auto_scale_lr.base_batch_size
    images = cfg.train_dataloader.batch_size * gpus
    if images == base:
        return None
    lr = cfg.optim_wrapper.optimizer.lr
    return f'lr {lr:g} -> {lr * images / base:g} ({images} images per step, not {base})'


def _start_from(checkpoint, cfg):
    """The options to start a detector or segmenter from an ImageNet run."""
    key = 'model.backbone.init_cfg'
    options: dict[str, Any] = {f'{key}.checkpoint': display_path(checkpoint)}
    backbone = cfg.model.backbone
    if backbone.get('init_cfg') is None:
        options[f'{key}.type'] = 'Pretrained'
        backbone.init_cfg = {}
    if not backbone.type.startswith('ra_mm.'):
        options[f'{key}.prefix'] = 'backbone.'
    # mmseg's configs have the deep stem, the ImageNet configs the plain one.
    if cfg.model.get('pretrained'):
        options['model.pretrained'] = None
    if backbone.type == 'ResNetV1c':
        options['model.backbone.type'] = 'ResNet'
    elif backbone.get('deep_stem'):
        options['model.backbone.deep_stem'] = False
    return options


def _launch(setting, cfg):
    """The start of the command line; in a job of Slurm, srun uses what the job has."""
    nodes, per_node = setting.nodes, setting.gpus_per_node
    if setting.launcher == 'none':
        return ['python']
    torchrun = ['torchrun', f'--nproc_per_node={per_node}']
    if setting.launcher == 'pytorch' and nodes == 1:
        return [torchrun[0], '--standalone', torchrun[1]]
    job_id = os.environ.get('SLURM_JOB_ID')
    tasks = per_node if setting.launcher == 'slurm' else 1
    workers = max(1, cfg.train_dataloader.num_workers) * per_node // tasks
    # Runs that share a node need different ports.
    host, port = socket.gethostname(), 29500 + int(job_id or 0) % 1000
    address = f'--export=ALL,MASTER_ADDR={host},MASTER_PORT={port}'
    srun = [
        'srun',
        address if job_id else f'--gres=gpu:{per_node}',
        f'--ntasks={tasks * nodes}',
        f'--ntasks-per-node={tasks}',
        f'--cpus-per-task={os.environ.get("SLURM_CPUS_PER_TASK", workers)}',
        '--kill-on-bad-exit=1',
    ]
    if setting.launcher == 'slurm':
        return [*srun, 'python', '-u']
    return [
        *(*srun, *torchrun, f'--nnodes={nodes}', '--rdzv-backend=c10d'),
        *(f'--rdzv-endpoint={host}:{port}', f'--rdzv-id={job_id or 0}'),
    ]


def display_path(path: Path) -> str:
    """Format a path as a user would type it: relative if it is inside the cwd."""
    path, here = Path(path).absolute(), Path.cwd()
    return str(path.relative_to(here) if here in path.parents else path)


def write_initial_weights(cfg: Config, path: Path, trained: Path | None = None) -> None:
    """Write the weights of the plain model that corresponds to a run.

    Attentions draw random numbers, so that models with different attentions
    would start from different weights despite the same seed. A run that loads
    this file (``load_from``) starts as all runs with its seed; only the weights
    of its attention are its own.

    Args:
        cfg: Config of the run.
        path: The file, which is written atomically.
        trained: Weights that exist, see :func:`.load_trained`.
    """
    cfg = deepcopy(cfg)
    if cfg.model.backbone.type == 'ra_mm.Converted':
        cfg.model.backbone = cfg.model.backbone.backbone
    backbone = cfg.model.backbone
    # The weights of a plain ResNet have the same names in all toolboxes.
    if backbone.type.startswith('ra_mm.') or backbone.type == 'ResNet':
        backbone.type = f'mmpretrain.{backbone.type.removeprefix("ra_mm.RA")}'
    backbone.pop('attention', None)
    set_random_seed(cfg.randomness.seed)
    model = build_model(cfg)
    logging.disable(logging.INFO)  # mmengine logs a line for each weight
    try:
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    if trained:
        load_trained(model, trained)
    with atomic_write(path, 'wb') as file:
        torch.save(dict(state_dict=model.state_dict(), meta={}), file)
