"""Turn a command line into a config and a runner."""

import difflib
import inspect
import logging
import os.path as osp

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ra_mm.engine.config import get_toolbox, get_value
from ra_mm.engine.cpu_distributed import use_gloo
from ra_mm.errors import UserError, translate_errors

# The keys that are read after a config file has been parsed: by the runner, by
# the tools, or as ``runner.cfg``.
TOP_LEVEL_KEYS = {
    *inspect.signature(Runner).parameters.keys() - {'cfg'},
    *('activation_checkpointing', 'compile', 'efficient_conv_bn_eval'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn'),
    *('tta_model', 'tta_pipeline'),
}
# Those of MMDetection 2 and its contemporaries, which nothing reads any more.
OUTDATED = 'checkpoint_config evaluation log_config lr_config optimizer_config'.split()
OUTDATED += ['resume_from', 'runner', 'total_epochs']


def load_config(
    path: str,
    cfg_options: dict | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config file and merge command line options into it.

    Args:
        path (str): The config file.
        cfg_options (dict, optional): Values by dotted key.
        work_dir (str, optional): Defaults to the one in the config, or else to
            ``./work_dirs/<name of the config>``.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.

    Returns:
        Config: With ``work_dir``, ``launcher`` and, for mmpretrain, the
        dataloader settings that its own tools add.

    Raises:
        UserError: If the file cannot be read, or an option does not fit it.
    """
    with translate_errors(f'{path} cannot be read as a config'):
        cfg = Config.fromfile(path)
    if cfg_options:
        _merge_options(cfg, cfg_options)
    for text in _find_unread(cfg):
        print_log(f'{path}: {text}', 'current', level=logging.WARNING)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(path))[0]
        cfg.work_dir = osp.join('./work_dirs', stem)

    if get_toolbox(cfg) == 'mmpretrain':
        for part in ('train', 'val', 'test'):
            loader = cfg.get(f'{part}_dataloader') or {}
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
    return cfg


def _merge_options(cfg, options):
    if 'launcher' in options:
        raise UserError('--cfg-options launcher: pass --launcher instead')
    for option in options:
        path = option.split('.')
        if path[0] not in TOP_LEVEL_KEYS:
            raise UserError(
                f'--cfg-options {option}: it would have no effect, since the runner '
                f'reads no {path[0]!r}{_suggest(path[0], TOP_LEVEL_KEYS)}'
            )
        for i, name in enumerate(path[1:], 1):
            known = get_value(cfg, '.'.join(path[:i]))
            if isinstance(known, dict) and name not in known:
                similar = _suggest(name, known)
                if similar:  # only a warning, since some dicts take any key
                    text = f'--cfg-options {option}: the config has no {name!r}'
                    print_log(text + similar, 'current', level=logging.WARNING)
                break
    with translate_errors('--cfg-options does not fit the config'):
        cfg.merge_from_dict(options)


def _find_unread(cfg):
    """Yield what a config sets without effect, where it seems to be a mistake."""
    for key in cfg.keys() - TOP_LEVEL_KEYS:
        if key in OUTDATED:
            yield f'{key} is of MMDetection 2 and has no effect: see its migration guide'
        elif similar := _suggest(key, TOP_LEVEL_KEYS - {'tta_pipeline'}, 0.88):
            yield f'{key} has no effect{similar}'
    used = get_value(cfg, 'model.data_preprocessor') or {}
    own = cfg.get('data_preprocessor') or {}
    # Configs of mmseg inherit the former and change the latter.
    if used and get_toolbox(cfg) != 'mmseg' and any(own[k] != used.get(k) for k in own):
        yield 'data_preprocessor has no effect beside model.data_preprocessor'


def _suggest(name, known, cutoff=0.82):
    """Return a clause that suggests a similar name, or an empty one."""
    # At 0.8, in_index is similar to ignore_index; lenght and length have 0.83.
    similar = difflib.get_close_matches(name, known, 1, cutoff)
    return f', did you mean {similar[0]!r}?' if similar else ''


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, by default a :class:`.SafeRunner`.

    Several processes without GPUs are supported, for trials.

    Raises:
        UserError: If the config names something that cannot be built.
    """
    cfg.setdefault('runner_type', 'ra_mm.SafeRunner')
    if cfg.launcher != 'none' and get_device() == 'cpu':
        use_gloo(cfg)
    if get_toolbox(cfg) == 'mmdet':
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()  # if the environment sets it
    with translate_errors('the config cannot be built'):
        return RUNNERS.build(cfg)
