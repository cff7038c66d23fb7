"""Train a model of MMDetection, MMSegmentation or MMPretrain.

::

    python tools/train.py CONFIG
    torchrun --nproc_per_node=8 tools/train.py CONFIG --launcher pytorch
"""

import ra_mm.threads  # noqa: F401  isort: skip

import os
from argparse import Namespace
from collections.abc import Sequence

from mmengine.config import Config

from ra_mm.checks.hook import DataCheckHook
from ra_mm.checks.operators import check_model
from ra_mm.checks.rules import check_config
from ra_mm.cli import build_runner, get_parser, load_config, report_user_errors
from ra_mm.engine.checkpoint_io import latest_checkpoint
from ra_mm.engine.cpu_distributed import end_processes
from ra_mm.errors import UserError
from ra_mm.hooks import CompileBackboneHook

PROG = 'tools/train.py'


def parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = get_parser(PROG, 'Train a model')
    add = parser.add_argument
    add('--amp', action='store_true', help='automatic mixed precision')
    what = 'scale the learning rate with the total batch size'
    add('--auto-scale-lr', action='store_true', help=what)
    what = 'resume from this checkpoint, or from the latest one in the work directory'
    add('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=what)
    what = 'do not look at a sample of the loaded data before training; '
    what += 'tools/check_data.py shows more of it'
    add('--no-data-check', dest='data_check', action='store_false', help=what)
    what = 'do not measure whether the training gains from a compiled backbone'
    add('--no-compile', dest='compile', action='store_false', help=what)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def merge_args(cfg: Config, args: Namespace) -> None:
    if args.amp and cfg.get('optim_wrapper'):
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        kind = getattr(kind, '__name__', kind)  # a class in a pure-Python config
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp does not support optim_wrapper.type={kind!r}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            text = '--auto-scale-lr: the config does not say for which batch size its'
            advice = 'pass --cfg-options auto_scale_lr.base_batch_size=NUMBER'
            raise UserError(f'{text} learning rate was chosen; {advice}')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = latest_checkpoint(str(cfg.work_dir))


def main(argv: Sequence[str] | None = None) -> None:
    with report_user_errors(PROG) as run:
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        run.work_dir = cfg.work_dir
        merge_args(cfg, args)
        found = check_config(cfg, 'train', args.resume)
        found.raise_errors()
        runner = build_runner(cfg)
        check_model(runner.model)
        for warning in found.warnings:
            runner.logger.warning(warning)
        if args.data_check:
            runner.register_hook(DataCheckHook())
        present = any(isinstance(hook, CompileBackboneHook) for hook in runner.hooks)
        if args.compile and not present:
            runner.register_hook(CompileBackboneHook())
        runner.train()


if __name__ == '__main__':
    main()
    end_processes()
