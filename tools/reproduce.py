"""Train the rows of the paper's tables and compare the results with the paper.

Four tables beyond the paper compare RA with other attentions and with controls:
beyond_imagenet and beyond_coco train from scratch, finetune and finetune_detection
start from weights that you have.

::

    python tools/reproduce.py table4 --gpus 8
    python tools/reproduce.py all --scale demo
    python tools/reproduce.py beyond_coco --data DIR --seeds 8
    python tools/reproduce.py finetune --data DIR --weights FILE --seeds 8
    python tools/reproduce.py report work_dirs/reproduce/demo

The same command continues where it was stopped and retries failed runs. It
writes ledger.json and report.html to a folder in work_dirs/reproduce/.
"""

import ra_mm.threads  # noqa: F401  isort: skip

import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # has reproduction/

from ra_mm.cli import add_cfg_options, report_user_errors
from ra_mm.datasets.shapes import write_shapes
from ra_mm.errors import UserError
from reproduction.execute import execute
from reproduction.finetune import TABLES as FINETUNE_TABLES
from reproduction.html_report import write_report
from reproduction.job import make_job
from reproduction.ledger import Ledger
from reproduction.plan import Run, Setting, make_plan, select_rows
from reproduction.process import lock
from reproduction.user_data import read_data_folder

PROG = 'tools/reproduce.py'


def parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'tables',
        nargs='+',
        metavar='TABLE',
        help='table2 to table10, all of these, beyond_imagenet, beyond_coco, finetune '
        'or finetune_detection; or report FOLDER to write the report again',
    )
    parser.add_argument(
        '--scale',
        choices=('full', 'demo'),
        default='full',
        help='demo: small models on drawn shapes, for a CPU; the numbers say '
        'nothing about the paper',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        help='number of GPUs; scales the learning rate (default: all GPUs of this '
        'machine, 1 at demo scale)',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm'),
        help='how processes are started (default: pytorch, that is torchrun, for '
        'several GPUs)',
    )
    parser.add_argument(
        '--rows',
        nargs='+',
        default=(),
        metavar='TEXT',
        help='only rows whose name contains one of these texts, such as '
        '"Faster R-CNN" or +RA',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        default=1,
        metavar='K',
        help='number of runs for each row, with seeds 0 to K-1',
    )
    parser.add_argument(
        '--data',
        type=Path,
        metavar='DIR',
        help='your own dataset instead of COCO (annotations/ and images/) or '
        'ImageNet (train/<class>/ and val/<class>/). Runs with the same seed start '
        'from the same weights, but for those of the attention, and see the same '
        'images in the same order',
    )
    parser.add_argument(
        '--weights',
        type=Path,
        metavar='FILE',
        help='trained weights of the plain network or of its backbone that '
        'fine-tuning starts from (default: none, training from scratch)',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='folder for ledger, report and runs '
        '(default: work_dirs/reproduce/<scale>[_<name of the data>])',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='print the commands in order, without writing or training anything',
    )
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f'--seeds {args.seeds}: expected 1 or more')
    if args.gpus is not None and args.gpus < 1:
        parser.error(f'--gpus {args.gpus}: expected 1 or more')
    if args.cfg_options and not args.data:
        parser.error("--cfg-options needs --data: else the rows are not the paper's")
    args.finetunes = bool({*args.tables} & {*FINETUNE_TABLES})
    if args.weights and not args.finetunes:
        parser.error(f'--weights is for {" and ".join(FINETUNE_TABLES)}')
    if args.finetunes and (not args.data or args.scale == 'demo'):
        parser.error(f'{args.tables[0]} needs --data and has no demo scale')
    if args.tables[0] == 'report' and len(args.tables) != 2:
        parser.error('report: expected one folder')
    return args


def get_setting(args: Namespace) -> Setting:
    """Collect what the runs have in common.

    Raises:
        UserError: If the dataset is missing, or there are too few GPUs.
    """
    data = read_data_folder(args.data) if args.data else None
    folder = args.out or Path('work_dirs/reproduce') / (
        args.scale + (f'_{data.root.name}' if data else '')
    )
    is_full = args.scale == 'full' and not args.finetunes  # is for GPUs
    available = torch.cuda.device_count() or (0 if is_full else 1)
    gpus = args.gpus or (max(available, 1) if is_full else 1)
    launcher = args.launcher or ('pytorch' if gpus > 1 else 'none')
    if launcher == 'none' and gpus > 1:
        raise UserError(f'--gpus {gpus} needs --launcher pytorch or slurm')
    if launcher != 'slurm' and not args.dry_run and gpus > available:
        raise UserError(
            f'--gpus {gpus}: this machine has {torch.cuda.device_count()}; --scale demo '
            'trains small models on the CPU, and --dry-run prints the commands for '
            'another machine'
        )
    options = args.cfg_options or {}
    return Setting(args.scale, folder, data, gpus, launcher, options, args.weights)


def print_commands(plan: Mapping[str, Run], setting: Setting, ledger: Ledger) -> None:
    """Print the commands of the runs that are not done."""
    for run in plan.values():
        if ledger.runs[run.id].status == 'done':
            print(f'# {run.id} is done')
            continue
        job = make_job(run, setting)
        if not job.is_paper_config:
            print(f'# {job.file} is written when the run is started')
        print(shlex.join(job.command))


def stop_on_signals() -> None:
    """Stop on SIGTERM and SIGHUP as on Ctrl-C, so that trainings stop too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)


def reproduce(args: Namespace) -> list[str]:
    """Plan, train, record and report; return the ids of the runs that failed."""
    rows = select_rows(args.tables, args.rows)
    setting = get_setting(args)
    plan = make_plan(rows, args.seeds, setting.data)
    if args.dry_run:
        ledger = Ledger.read(setting.folder)
        ledger.request(setting, rows, args.seeds, plan)
        print_commands(plan, setting, ledger)
        return []
    setting.folder.mkdir(parents=True, exist_ok=True)
    with lock(setting.folder) as lock_file:
        stop_on_signals()
        ledger = Ledger.read(setting.folder)
        ledger.request(setting, rows, args.seeds, plan)
        ledger.save()
        if setting.scale == 'demo' and not setting.data:
            write_shapes(setting.folder / 'data', classes_train=400)
        for _ in execute(plan, setting, ledger, lock_file):
            write_report(setting.folder)
    return [run_id for run_id in plan if ledger.runs[run_id].status == 'failed']


def main(argv: Sequence[str] | None = None) -> None:
    with report_user_errors(PROG):
        args = parse_args(argv)
        if args.tables[0] == 'report':
            write_report(Path(args.tables[1]))
            return
        try:
            failed = reproduce(args)
        except KeyboardInterrupt:
            print(
                f'\n{PROG}: stopped; the same command continues from here',
                file=sys.stderr,
            )
            sys.exit(130)
        if failed:
            print(
                f'{PROG}: error: these runs failed: {", ".join(failed)}; the same '
                'command retries them',
                file=sys.stderr,
            )
            sys.exit(1)


if __name__ == '__main__':
    main()
