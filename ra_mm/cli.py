"""What the command line tools share: options, configs, runners and errors."""

import inspect
import logging
import os
import os.path as osp
import sys
import tempfile
import traceback
from argparse import Action, ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ra_mm.cfg_options import OptionsAction
from ra_mm.engine.config import get_toolbox, get_value
from ra_mm.engine.cpu_distributed import use_gloo
from ra_mm.errors import UserError, translate_errors
from ra_mm.validation import did_you_mean

# The keys that are read after a config file has been parsed: by the runner, by
# the tools, or as ``runner.cfg``.
TOP_LEVEL_KEYS = {
    *inspect.signature(Runner).parameters.keys() - {'cfg'},
    *('activation_checkpointing', 'compile', 'efficient_conv_bn_eval'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn'),
    *('tta_model', 'tta_pipeline'),
}


def get_parser(prog: str, description: str) -> ArgumentParser:
    """Create a parser of the options that training and testing share."""
    parser = ArgumentParser(prog=prog, description=description)
    parser.add_argument('config', help='config file of any of the toolboxes')
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints, by default the one in the config, '
        'or else ./work_dirs/<name of the config>',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes are started, pytorch for torchrun',
    )
    # torch.distributed.launch passes --local-rank, or --local_rank before
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
        action=OptionsAction,
        type=key_value,
        metavar='KEY=VALUE',
        help='settings that override the config: key=value, and '
        'key="[a,b]" or key=a,b for a list; a text with commas needs quotes of its '
        'own: "key=\'a, b\'"',
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
                f'reads no {path[0]!r}{did_you_mean(path[0], TOP_LEVEL_KEYS)}'
            )
        for i, name in enumerate(path[1:], 1):
            known = get_value(cfg, '.'.join(path[:i]))
            if isinstance(known, dict) and name not in known:
                similar = did_you_mean(name, known)
                if similar:  # only a warning, since some dicts take any key
                    text = f'--cfg-options {option}: the config has no {name!r}'
                    print_log(text + similar, 'current', level=logging.WARNING)
                break
    with translate_errors('--cfg-options does not fit the config'):
        cfg.merge_from_dict(options)


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


@contextmanager
def report_user_errors(prog: str) -> Iterator[SimpleNamespace]:
    """Print a user's mistake as one message and exit with status 1.

    The traceback goes to a file, which the message names. Other exceptions than
    :class:`.UserError` are bugs and keep their traceback. Ctrl-C exits with
    status 130, also where a library replaces its KeyboardInterrupt by another
    exception, as mmengine does while it formats a config for a checkpoint.

    Args:
        prog (str): The name of the tool, to begin the message with.

    Yields:
        SimpleNamespace: Set its ``work_dir`` to get the file there. If it is
        not set or does not exist, the file is a temporary one.
    """
    run = SimpleNamespace(work_dir=None)
    if int(os.environ.get('RANK', 0)):
        prog = f'{prog} (process {os.environ["RANK"]})'
    try:
        yield run
    except (Exception, KeyboardInterrupt) as e:
        if _is_interrupted(e):
            print(f'{prog}: interrupted', file=sys.stderr)
            sys.exit(130)
        if not isinstance(e, UserError):
            raise
        # A DataLoader re-raises an error of a worker with the traceback as its
        # message, which ends with our message.
        cls = f'{UserError.__module__}.{UserError.__qualname__}: '
        message = str(e).rpartition(cls)[2].strip()
        path = _write_traceback(run.work_dir)
        print(f'{prog}: error: {message}\n(traceback in {path})', file=sys.stderr)
        sys.exit(1)


def _is_interrupted(error):
    """Whether Ctrl-C led to an exception."""
    seen, chain = set(), [error]
    while chain:
        error = chain.pop()
        if isinstance(error, KeyboardInterrupt):
            return True
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            chain += [error.__cause__, error.__context__]
    return False


def _write_traceback(work_dir):
    """Write the traceback where possible, and return the name of the file."""
    for folder in (work_dir or None, None):
        try:
            with tempfile.NamedTemporaryFile(
                'w', dir=folder, prefix='error_', suffix='.log', delete=False
            ) as f:
                f.write(traceback.format_exc())
            return f.name
        except OSError:  # no such folder yet, or a full disk
            pass
    return 'no file, since none can be written'
