"""Test a model of MMDetection, MMSegmentation or MMPretrain.

::

    python tools/test.py CONFIG CHECKPOINT
    torchrun --nproc_per_node=8 tools/test.py CONFIG CHECKPOINT \
        --launcher pytorch
"""

import os
from copy import deepcopy
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import DumpResults

from ra_mm.cli import (
    build_runner,
    end_processes,
    get_parser,
    load_config,
    report_user_errors,
)
from ra_mm.engine.strict_load import StrictLoadHook
from ra_mm.errors import warn
from ra_mm.fileio import check_writable
from ra_mm.preflight import check

PROG = 'tools/test.py'


def parse_args(argv):
    parser = get_parser(PROG, 'Test a model')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out', help='pickle file for the predictions (*.pkl, *.pickle)'
    )
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument(
        '--show-dir',
        help='folder for pictures of the predictions; under mmdet a relative '
        'one lies in <work dir>/<time>',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        help='seconds for which --show shows each picture',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: expected a name that ends in .pkl or .pickle')
    return args


def draw(cfg, args):
    """Let the toolbox's own hook draw the predictions."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a visualization hook: '
            'the config has no default_hooks.visualization'
        )
    if args.show_dir and (
        cfg.get('default_scope') != 'mmdet' or Path(args.show_dir).is_absolute()
    ):
        check_writable('--show-dir', args.show_dir)
    hook.update(show=args.show, wait_time=args.wait_time)
    if cfg.get('default_scope') == 'mmpretrain':
        if args.tta:
            raise ValueError(
                'mmpretrain does not draw with --tta: its hook '
                'knows one input a sample; leave one of the two '
                'out'
            )
        hook.update(enable=True, interval=1, out_dir=args.show_dir)
    elif cfg.get('default_scope') == 'mmseg':
        hook.draw = True
        if args.show_dir:
            cfg.visualizer.save_dir = args.show_dir
    else:
        hook.update(draw=True, test_out_dir=args.show_dir)


def warn_of_equal_names(runner):
    """The toolboxes name a picture as its image, without the folder."""
    dataset = runner.test_dataloader.dataset
    if isinstance(dataset, BaseDataset):
        names = {
            Path(dataset.get_data_info(i).get('img_path', str(i))).name
            for i in range(len(dataset))
        }
        if len(names) < len(dataset):
            warn(
                f'--show-dir: {len(dataset)} images in several folders have '
                f'{len(names)} names, of each the last picture remains'
            )


def augment(cfg):
    """Test-time augmentation: the config's own, or else a flip."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(
            mmdet=dict(
                type='DetTTAModel',
                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
            ),
            mmseg=dict(type='SegTTAModel'),
            mmpretrain=dict(type='AverageClsScoreTTA'),
        )[cfg.default_scope]
    if 'tta_pipeline' not in cfg:
        *steps, pack = deepcopy(dataset.pipeline)
        if 'meta_keys' in pack:
            pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
        cfg.tta_pipeline = [
            *steps,
            dict(type='TestTimeAug', transforms=[flips, [pack]]),
        ]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def main(argv=None):
    with report_user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        for key in {'load_from', 'resume'} & set(args.cfg_options or ()):
            raise ValueError(
                f'--cfg-options {key}: the checkpoint is what '
                'the command line names after the config'
            )
        cfg.load_from = args.checkpoint
        cfg.resume = False
        check(cfg, 'test')
        if args.out:
            check_writable('--out', Path(args.out).parent)
        if args.show or args.show_dir:
            draw(cfg, args)
        if args.tta:
            augment(cfg)
        runner = build_runner(cfg)
        runner.register_hook(StrictLoadHook(whole=True))
        if args.show_dir:
            warn_of_equal_names(runner)
        if args.out:
            dump = DumpResults
            if cfg.get('default_scope') == 'mmdet':  # stores masks as RLE
                from mmdet.evaluation import DumpDetResults as dump
            runner.test_evaluator.metrics.append(dump(out_file_path=args.out))
        return runner.test()


if __name__ == '__main__':
    main()
    end_processes()
