"""Train a model of MMDetection, MMSegmentation or MMPretrain.

::

    python tools/train.py CONFIG
    torchrun --nproc_per_node=8 tools/train.py CONFIG --launcher pytorch
"""

import os

from ra_mm.cli import (
    build_runner,
    end_processes,
    get_parser,
    load_config,
    report_user_errors,
)
from ra_mm.engine.checkpoint_io import (
    ValidateResumedHook,
    latest_checkpoint,
    save_whole,
)
from ra_mm.engine.strict_load import StrictLoadHook
from ra_mm.preflight import check

PROG = 'tools/train.py'


def parse_args(argv):
    parser = get_parser(PROG, 'Train a model')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the number of images a step',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint, or from the last one in the '
        'work directory',
    )
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def merge_args(cfg, args):
    if args.amp and cfg.get('optim_wrapper'):
        if cfg.optim_wrapper.get('type', 'OptimWrapper') not in (
            'OptimWrapper',
            'AmpOptimWrapper',
        ):
            raise ValueError(
                f'--amp does not go with optim_wrapper.type={cfg.optim_wrapper.type!r}'
            )
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ValueError(
                '--auto-scale-lr: the config does not say for how many images '
                'a step its learning rate was made; pass --cfg-options '
                'auto_scale_lr.base_batch_size=NUMBER'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from = latest_checkpoint(str(cfg.work_dir))


def main(argv=None):
    with report_user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        merge_args(cfg, args)
        check(cfg, 'train', auto_resume=args.resume == 'auto')
        runner = build_runner(cfg)
        runner.register_hook(StrictLoadHook(whole=bool(cfg.get('resume'))))
        save_whole(runner)
        if cfg.get('resume'):
            runner.register_hook(ValidateResumedHook())
        runner.train()


if __name__ == '__main__':
    main()
    end_processes()
