"""Test a model of MMDetection, MMSegmentation or MMPretrain.

::

    python tools/test.py CONFIG CHECKPOINT
    torchrun --nproc_per_node=8 tools/test.py CONFIG CHECKPOINT \
        --launcher pytorch
"""

import ra_mm.threads  # noqa: F401  isort: skip

import os
from argparse import Namespace
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from ra_mm.checks.operators import check_model
from ra_mm.checks.rules import check_config
from ra_mm.cli import build_runner, get_parser, load_config, report_user_errors
from ra_mm.engine.config import get_toolbox, iter_unwrapped
from ra_mm.engine.cpu_distributed import end_processes
from ra_mm.errors import UserError
from ra_mm.fileio import check_writable

PROG = 'tools/test.py'


def parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = get_parser(PROG, 'Test a model')
    add = parser.add_argument
    add('checkpoint', help='checkpoint file or URL')
    add('--out', help='pickle file for the predictions (*.pkl, *.pickle)')
    add('--show', action='store_true', help='show the predictions')
    what = 'folder for pictures of the predictions; under mmdet, a relative '
    add('--show-dir', help=f'{what}path is relative to <work dir>/<time>')
    what = 'seconds for which --show shows each picture'
    add('--wait-time', type=float, default=2, help=what)
    add('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: expected a name that ends in .pkl or .pickle')
    return args


def draw(cfg: Config, args: Namespace) -> None:
    """Let the hook of the toolbox draw the predictions."""
    toolbox = get_toolbox(cfg)
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        text = '--show and --show-dir need a visualization hook, but the config has no'
        raise UserError(f'{text} default_hooks.visualization')
    if args.show_dir and (toolbox != 'mmdet' or Path(args.show_dir).is_absolute()):
        check_writable('--show-dir', args.show_dir)
    hook.update(show=args.show, wait_time=args.wait_time)
    if toolbox == 'mmpretrain':
        if args.tta:
            text = '--show and --show-dir do not work with --tta under mmpretrain: its'
            raise UserError(f'{text} visualization hook supports one input per sample')
        hook.update(enable=True, interval=1, out_dir=args.show_dir)
    elif toolbox == 'mmseg':
        # mmsegmentation 1.2.2 applies the interval in testing too.
        hook.update(draw=True, interval=1)
        if args.show_dir:
            cfg.visualizer.save_dir = args.show_dir
    else:
        hook.update(draw=True, test_out_dir=args.show_dir)


def warn_of_equal_names(runner: Runner) -> None:
    """The toolboxes name a picture as its image, without the folder."""
    root = runner.test_dataloader.dataset
    total, names = 0, set()
    for _, dataset in iter_unwrapped(root, 'test_dataloader.dataset'):
        if isinstance(dataset, BaseDataset):
            total += len(dataset)
            for i in range(len(dataset)):
                path = dataset.get_data_info(i).get('img_path', str(i))
                names.add(Path(path).name)
    if len(names) < total:
        runner.logger.warning(
            f'--show-dir: {total} images in several folders have only {len(names)} '
            'names; of equal names the last picture remains'
        )


def augment(cfg: Config) -> None:
    """Use the config's test-time augmentation, or else a flip."""
    cfg.default_scope = get_toolbox(cfg)  # a pure-Python config has none
    root = cfg.test_dataloader.dataset
    nodes = [node for _, node in iter_unwrapped(root, 'test_dataloader.dataset')]
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(
            mmdet=dict(
                type='DetTTAModel',
                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
            ),
            mmseg=dict(type='SegTTAModel'),
            mmpretrain=dict(type='AverageClsScoreTTA'),
        )[cfg.default_scope]
    for node in nodes:
        node.pipeline = cfg.get('tta_pipeline') or flip(node.pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def flip(pipeline: list) -> list:
    """Let a test pipeline yield an image and its mirror image."""
    *steps, pack = deepcopy(pipeline)
    if 'meta_keys' in pack:
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def dump_predictions(runner: Runner, path: str, toolbox: str | None) -> None:
    dump = DumpResults
    if toolbox == 'mmdet':  # its own stores masks as RLE
        from mmdet.evaluation import DumpDetResults as dump
    runner.test_evaluator.metrics.append(dump(out_file_path=path))


def main(argv: Sequence[str] | None = None) -> dict:
    with report_user_errors(PROG) as run:
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        run.work_dir = cfg.work_dir
        for key in {'load_from', 'resume'} & set(args.cfg_options or ()):
            text = 'pass the checkpoint after the config instead'
            raise UserError(f'--cfg-options {key}: {text}')
        cfg.load_from = args.checkpoint
        cfg.resume = False
        toolbox = get_toolbox(cfg)
        found = check_config(cfg, 'test')
        found.raise_errors()
        if args.out:
            check_writable('--out', Path(args.out).parent)
        if args.show or args.show_dir:
            draw(cfg, args)
        if args.tta:
            augment(cfg)
        runner = build_runner(cfg)
        check_model(runner.model)
        for warning in found.warnings:
            runner.logger.warning(warning)
        if args.show_dir:
            warn_of_equal_names(runner)
        if args.out:
            dump_predictions(runner, args.out, toolbox)
        return runner.test()


if __name__ == '__main__':
    main()
    end_processes()
