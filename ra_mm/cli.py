"""What ``tools/train.py`` and ``tools/test.py`` share."""

import difflib
import inspect
import os
import os.path as osp
import re
import sys
import traceback
from argparse import Action, ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.config.utils import ConfigParsingError
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ra_mm.engine.config import iter_dicts
from ra_mm.engine.samples import name_samples
from ra_mm.errors import UserError, warn
from ra_mm.registry import HOOKS, MODELS
from ra_mm.validation import shorten

# What is read after the config file has been parsed: by the runner, by the
# tools, or as ``runner.cfg``.
TOP_LEVEL_KEYS = {
    *list(inspect.signature(Runner.__init__).parameters)[1:-1],
    *('activation_checkpointing', 'compile', 'efficient_conv_bn_eval'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn'),
    *('tta_model', 'tta_pipeline'),
}
# What goes wrong in these functions is the config's fault.
BUILDING = {
    *('build_from_cfg', 'build_runner', 'scale_lr'),
    *(name for name in dir(Runner) if name.startswith('build_')),
}
# What PyTorch says of layers that get other channels than they were made for.
MISFIT = re.compile(
    r'to have \d+ channels, but got \d+ channels|'
    'mat1 and mat2 shapes cannot be multiplied'
)


def get_parser(prog: str, description: str) -> ArgumentParser:
    """The flags that training and testing have in common, as in mmdet."""
    parser = ArgumentParser(
        prog=prog,
        description=description,
        epilog='Mistakes end in one message; RA_MM_TRACEBACK=1 in the '
        'environment shows the full traceback instead.',
    )
    parser.add_argument('config', help='config file of any of the toolboxes')
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints, ./work_dirs/<name of the '
        'config> if neither this nor the config says otherwise',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started, pytorch for torchrun',
    )
    # torchrun's predecessor passes --local-rank, or --local_rank before
    # PyTorch 2.0.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def key_value(text: str) -> str:
    if '=' not in text:
        raise ArgumentTypeError(f'{text!r} is not of the form KEY=VALUE')
    return text


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``, as in all OpenMMLab tools."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        type=key_value,
        metavar='KEY=VALUE',
        help='settings that override the config: key=value, and '
        'key="[a,b]" or key=a,b for a list, without white space',
    )


class ShapeAction(Action):
    """One or two numbers, as a tuple of height and width."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2 or min(values) < 1:
            parser.error(
                f'{option_string} {" ".join(map(str, values))}: expected height '
                'and width, or one number for both'
            )
        setattr(namespace, self.dest, (values[0], values[-1]))


def add_shape_argument(
    parser: ArgumentParser, help: str, default: tuple[int, int] | None = None
) -> None:
    """Add ``--shape HEIGHT WIDTH`` or ``--shape SIDE``, in pixels.

    Args:
        parser (ArgumentParser): The parser to extend.
        help (str): What has this shape, and the default.
        default (tuple[int, int], optional): Height and width.
    """
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        action=ShapeAction,
        metavar='PIXELS',
        default=default,
        help=help,
    )


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
        work_dir (str, optional): Defaults to the config's own, or else to
            ``./work_dirs/<name of the config>``.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.

    Returns:
        Config: With ``work_dir``, ``launcher`` and, for mmpretrain, the
        dataloader settings that its own tools add.

    Raises:
        UserError: If the file cannot be read, or an option has no place in it.
    """
    if not osp.isfile(path):
        raise ValueError(
            f'{path}: '
            + (
                'a folder, name a file in it'
                if osp.isdir(path)
                else 'there is no such config file'
            )
        )
    try:
        cfg = Config.fromfile(path)
    except Exception as e:  # a config is Python code: anything can happen
        reason = f'{type(e).__name__}: {e}'
        if 'mmsegmentation is not installed' in reason:
            reason = (
                "'mmseg::' means the original distribution, which must "
                'not be installed over onedl-mmsegmentation. Name the '
                "file by its path: __import__('mmseg').__path__[0] + "
                "'/.mim/configs/...', as configs/upernet_r50.py does"
            )
        raise ValueError(f'{path} cannot be read as a config: {reason}') from e

    if cfg_options:
        _merge_options(cfg, cfg_options)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(path))[0]
        cfg.work_dir = osp.join('./work_dirs', stem)

    if cfg.get('default_scope') == 'mmpretrain':
        for part in ('train', 'val', 'test'):
            loader = cfg.get(f'{part}_dataloader')
            if loader is not None:
                loader.setdefault('collate_fn', dict(type='default_collate'))
                loader.setdefault('pin_memory', torch.cuda.is_available())
                loader.setdefault(
                    'persistent_workers', loader.get('num_workers', 0) > 0
                )
    return cfg


def _merge_options(cfg, options):
    for option in options:
        key, *path = option.split('.')
        if key == 'launcher':
            raise ValueError('--cfg-options launcher: pass --launcher instead')
        if key not in TOP_LEVEL_KEYS:
            raise ValueError(f'--cfg-options {option}: {_no_effect(cfg, key)}')
        node = cfg.get(key)
        for i, name in enumerate(path, 1):
            if isinstance(node, (list, tuple)) and name.isdigit():
                node = node[int(name)] if int(name) < len(node) else None
            elif isinstance(node, dict) and name in node:
                if node[name] is None and i < len(path):
                    node[name] = ConfigDict()  # to be given a type, say
                node = node[name]
            else:
                if isinstance(node, dict):
                    similar = difflib.get_close_matches(name, node, 1, 0.8)
                    if similar:
                        warn(
                            f'--cfg-options {option}: the config has no '
                            f'{name!r} there; is {similar[0]!r} meant?'
                        )
                break
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as e:
        raise ValueError(f'--cfg-options does not fit the config: {e.args[0]}') from e


def _no_effect(cfg, key):
    """Why a top-level option would change nothing, and what would."""
    if key not in cfg:
        similar = difflib.get_close_matches(key, TOP_LEVEL_KEYS, 1)
        return f'there is no {key!r} in a config' + (
            f', is {similar[0]!r} meant?' if similar else ''
        )
    value, uses = cfg[key], []
    for path, node in iter_dicts(cfg):
        for name, leaf in node.items():
            if path.split('.')[0] in TOP_LEVEL_KEYS and (
                leaf == value
                or isinstance(value, str)
                and value
                and isinstance(leaf, str)
                and leaf.startswith(value)
            ):
                uses.append(f'{path}.{name}')
    return (
        f'{key!r} is a variable of the config file; what it was used for '
        'is set by now' + (f': change {", ".join(uses)}' if uses else '')
    )


def build_runner(cfg: Config) -> Runner:
    """Build the runner, of several processes without a GPU too.

    On the CPU mmengine selects a CUDA device for each process and hands
    device ids to DDP, and SyncBN does not exist; so here the processes talk
    by gloo and normalise their own batches by BN. (For a single process
    mmengine itself turns SyncBN into BN, and says so.)
    """
    if cfg.launcher != 'none' and get_device() == 'cpu':
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        wrapper = cfg.setdefault(
            'model_wrapper_cfg',
            ConfigDict(
                type='MMDistributedDataParallel',
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            ),
        )
        wrapper.device_ids = None
        sync_bns = [
            node
            for _, node in iter_dicts(cfg.model)
            if node.get('type') in ('SyncBN', 'MMSyncBN')
        ]
        for node in sync_bns:
            node.type = 'BN'
        if cfg.pop('sync_bn', None) or sync_bns:
            warn('no GPU: BN takes the place of SyncBN')
    if cfg.get('default_scope') == 'mmdet':
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()  # if the environment sets it
    if 'runner_type' in cfg:
        runner = RUNNERS.build(cfg)
    else:
        runner = Runner.from_cfg(cfg)
    name_samples(runner)
    return runner


def end_processes() -> None:
    """End a process that talks by gloo, once all have come so far.

    While Python shuts down, gloo's threads may abort it or wait for it
    forever, after all work is done; so its shutdown is left out.
    """
    if torch.distributed.is_initialized() and (
        torch.distributed.get_backend() == 'gloo'
    ):
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def report_user_errors(prog: str) -> Iterator[None]:
    """Turn a user's mistake into one message and exit status 1.

    A mistake is a wrong value, file or config, wherever it is found before
    or between iterations or while a checkpoint is saved, parts of the model
    whose channels do not fit each other, and whatever goes wrong while the
    registry builds a configured class or the runner builds its parts, and
    while an image and its annotations are loaded. Other errors within an
    iteration keep their traceback, as do all of them with RA_MM_TRACEBACK=1
    in the environment.

    Args:
        prog (str): The name of the tool, to begin the message with.
    """
    try:
        yield
    except Exception as e:
        if os.environ.get('RA_MM_TRACEBACK') or not _is_mistake(e):
            raise
        rank = int(os.environ.get('RANK', 0))
        where = f'{prog} (process {rank})' if rank else prog
        print(f'{where}: error: {_message(e)}', file=sys.stderr)
        sys.exit(1)


def _last_frame(error):
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame


def _is_misfit(error):
    """Whether a layer was given other channels than it was made for."""
    return (
        isinstance(error, RuntimeError)
        and MISFIT.search(str(error)) is not None
        and 'torch/nn/modules' in _last_frame(error).f_code.co_filename
    )


def _is_unknown_metric(error):
    """Whether save_best names a metric that the validation lacks."""
    return (
        isinstance(error, KeyError)
        and _last_frame(error).f_code.co_name == '_save_best_checkpoint'
    )


def _is_mistake(error):
    if isinstance(error, UserError):
        return True
    if _is_misfit(error) or _is_unknown_metric(error):
        return True
    functions = {
        frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)
    }
    if functions & {'run_iter', 'evaluate'} and ('save_checkpoint' not in functions):
        return False
    return bool(functions & BUILDING) or isinstance(
        error, (ValueError, OSError, ImportError, SyntaxError, ConfigParsingError)
    )


def _message(error):
    if _is_misfit(error):
        return (
            'the parts of the model do not fit each other: set '
            'in_channels of the neck, a head or the backbone to what it '
            f'is given ({error})'
        )
    if _is_unknown_metric(error):
        metrics = _last_frame(error).f_locals['metrics']
        return (
            f'save_best={error}: there is no such metric, but '
            f'{shorten(metrics)}; pass --cfg-options '
            'default_hooks.checkpoint.save_best=NAME'
        )
    # A KeyError's str() is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) else str(error)
    # A worker of a dataloader sends its whole traceback as the message.
    if str(text).startswith('Caught '):
        return text.strip().splitlines()[-1]
    unknown = re.match(r'(\S+) is not in the (\S+) registry', str(text))
    if unknown:
        known = []
        for registry in (MODELS, HOOKS):
            registry.import_from_location()
            known += registry.module_dict
        similar = difflib.get_close_matches(unknown[1].split('.')[-1], known, 1, 0.85)
        if similar:
            return f"{unknown[0]}: is type='ra_mm.{similar[0]}' meant?"
    # Some versions of mmengine name every class that was being built.
    text = re.sub(r'^(class `\w+` in \S+: )+', '', str(text))
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    if not text:  # a bare assert: what it wanted
        text = traceback.extract_tb(error.__traceback__)[-1].line
    hint = ''
    if isinstance(error, ImportError):
        hint = ' (`python -m ra_mm.check_env` looks at the installation)'
    return f'{type(error).__name__}: {text}{hint}'
