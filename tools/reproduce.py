"""Train the rows of the paper's tables and compare the results with the paper.

Four tables beyond the paper compare RA with other attentions and with controls:
beyond_imagenet and beyond_coco train from scratch, finetune and finetune_detection
start from weights that you have.

::

    python tools/reproduce.py table4 --gpus 8
    python tools/reproduce.py all --scale demo
    python tools/reproduce.py beyond_coco --data DIR --seeds 8
    python tools/reproduce.py finetune --data DIR --weights FILE --seeds 8
    python tools/reproduce.py all --gpus 8 --submit slurm --slurm partition=gpu
    python tools/reproduce.py status work_dirs/reproduce/full
    python tools/reproduce.py report work_dirs/reproduce/full
    python tools/reproduce.py cancel work_dirs/reproduce/full

The same command continues where it was stopped and retries failed runs. It
writes a ledger and report.html to a folder in work_dirs/reproduce/. An argument
@FILE stands for the arguments in a file.
"""

import ra_mm.threads  # noqa: F401  isort: skip

import functools
import os
import shlex
import signal
import sys
import tempfile
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # has reproduction/

from ra_mm.cli import add_cfg_options, report_user_errors
from ra_mm.cli.arguments import key_value, positive_int
from ra_mm.datasets.shapes import write_shapes
from ra_mm.errors import UserError
from reproduction import slurm
from reproduction.estimate import estimate_plan, print_plan
from reproduction.execute import execute
from reproduction.finetune import TABLES as FINETUNE_TABLES
from reproduction.html_report import write_report
from reproduction.job import make_job
from reproduction.ledger import Ledger
from reproduction.plan import Run, Setting, make_plan, select_rows
from reproduction.process import Lock, lock
from reproduction.status import print_status
from reproduction.user_data import read_data_folder

PROG = 'tools/reproduce.py'
MAX_GPUS_PER_NODE = 8


def parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(
        prog=PROG,
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        fromfile_prefix_chars='@',
    )
    split = functools.partial(shlex.split, comments=True)
    parser.convert_arg_line_to_args = split  # type: ignore[method-assign]
    add, number = parser.add_argument, functools.partial(dict, type=positive_int)
    what = 'table2 to table10, all of these, beyond_imagenet, beyond_coco, finetune or '
    what += 'finetune_detection; or, with a FOLDER: report, status, '
    what += "cancel (Slurm's jobs)"
    add('tables', nargs='+', metavar='TABLE', help=what)
    what = 'demo: small models on drawn shapes, for a CPU; no numbers of the paper'
    add('--scale', choices=('full', 'demo'), default='full', help=what)
    what = 'only rows with one of these texts: "Faster R-CNN", +RA, "*, +RA" (no more)'
    add('--rows', nargs='+', default=(), metavar='TEXT', help=what)
    add('--seeds', **number(default=1), metavar='K', help='runs for each row, 0 to K-1')
    what = 'your own dataset instead of COCO (annotations/ and images/) or ImageNet '
    what += '(train/<class>/ and val/<class>/); within a seed, models start from the '
    what += 'same weights, but for those of the attention, and see the same images'
    add('--data', type=Path, metavar='DIR', help=what)
    what = 'weights of the plain network that fine-tuning starts from (default: none)'
    add('--weights', type=Path, metavar='FILE', help=what)
    add_cfg_options(parser)
    what = 'folder for results (default: work_dirs/reproduce/<scale>[_<name of data>])'
    add('--out', type=Path, metavar='DIR', help=what)
    what = 'GPUs of a run; scale the learning rate (default: all that a single run has)'
    add('--gpus', **number(), help=what)
    add('--nodes', **number(), help='machines that these are on (default: 1 for 8)')
    what = 'how processes start (default: pytorch, that is torchrun, for several GPUs)'
    add('--launcher', choices=('none', 'pytorch', 'slurm'), help=what)
    what = 'runs side by side, each with GPUs of its own, if there are, or its cores'
    add('--jobs', **number(default=1), metavar='N', help=what)
    what = 'make each run a job and return; again, to submit what is missing'
    add('--submit', choices=('slurm',), help=what)
    what = 'options of sbatch: partition=gpu time=24:00:00 account=lab'
    pairs = dict(nargs='+', default=(), type=key_value, metavar='KEY=VALUE')
    add('--slurm', help=what, **pairs)
    add('--run', metavar='ID', help=SUPPRESS)  # in a job of Slurm
    what = 'print the commands in order, without writing or training anything'
    add('--dry-run', action='store_true', help=what)
    what = 'with --dry-run: print the cost on a GPU in benchmarks/results, such as H100'
    add('--gpu-name', metavar='NAME', help=what)
    args = parser.parse_args(argv)
    if args.cfg_options and not args.data:
        parser.error("--cfg-options needs --data: else the rows are not the paper's")
    args.finetunes = bool({*args.tables} & {*FINETUNE_TABLES})
    if args.weights and not args.finetunes:
        parser.error(f'--weights is for {" and ".join(FINETUNE_TABLES)}')
    if args.finetunes and (not args.data or args.scale == 'demo'):
        parser.error(f'{args.tables[0]} needs --data and has no demo scale')
    if args.tables[0] in COMMANDS and len(args.tables) != 2:
        parser.error(f'{args.tables[0]}: expected one folder')
    return args


def get_setting(args: Namespace) -> Setting:
    """Collect what the runs have in common.

    Raises:
        UserError: If the dataset is missing, or there are too few GPUs.
    """
    data = read_data_folder(args.data) if args.data else None
    name = f'{args.scale}_{data.root.name}' if data else args.scale
    folder = args.out or Path('work_dirs/reproduce', name)
    is_full = args.scale == 'full' and not args.finetunes  # is for GPUs
    available = torch.cuda.device_count() or (0 if is_full else 1)
    takes_all = is_full and not args.submit and args.jobs == 1
    gpus = args.gpus or (max(available, 1) if takes_all else 1)
    uses_slurm = args.submit or args.launcher == 'slurm'
    nodes = args.nodes or (-(-gpus // MAX_GPUS_PER_NODE) if uses_slurm else 1)
    on_many = 'pytorch' if nodes == 1 else 'slurm'
    launcher = args.launcher or (on_many if gpus > 1 else 'none')
    if launcher == 'none' and gpus > 1:
        raise UserError(f'--gpus {gpus} needs --launcher pytorch or slurm')
    if gpus % nodes or (nodes > 1 and not uses_slurm):
        text = f'expected a divisor of --gpus {gpus}, with --submit slurm'
        raise UserError(f'--nodes {nodes}: {text}')
    is_elsewhere = launcher == 'slurm' or nodes > 1 or (args.submit and not args.run)
    if not is_elsewhere and not args.dry_run and gpus > available:
        text = f'--gpus {gpus}: this machine has {torch.cuda.device_count()}; --scale'
        text += ' demo trains small models on the CPU, and --dry-run prints the'
        raise UserError(f'{text} commands for another machine')
    options = args.cfg_options or {}
    return Setting(
        args.scale, folder, data, gpus, launcher, nodes, options, args.weights
    )


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


def stop_on_signals(*others: signal.Signals) -> None:
    """Stop on SIGTERM and SIGHUP as on Ctrl-C, so that trainings stop too."""

    def stop(number, frame):
        raise KeyboardInterrupt(number)

    for number in (signal.SIGTERM, signal.SIGHUP, *others):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)


def reproduce(args: Namespace, argv: Sequence[str]) -> list[str]:
    """Plan, train, record and report; return the ids of the runs that failed."""
    rows = select_rows(args.tables, args.rows)
    setting = get_setting(args)
    plan = make_plan(rows, args.seeds, setting.data)
    if args.run:
        return train_in_job(plan[args.run], setting)
    if args.dry_run:
        ledger = Ledger.read(setting.folder)
        ledger.request(setting, rows, args.seeds, plan)
        print_commands(plan, setting, ledger)
        if args.gpu_name:
            estimates = estimate_plan(plan, setting, ledger, args.gpu_name)
            print_plan(plan, estimates, setting)
        return []
    setting.folder.mkdir(parents=True, exist_ok=True)
    with lock(setting.folder) as held:
        stop_on_signals()
        ledger = Ledger.read(setting.folder)
        ledger.request(setting, rows, args.seeds, plan)
        if not args.submit:
            refuse_queued(setting.folder)
        ledger.save()
        if setting.scale == 'demo' and not setting.data:
            write_shapes(setting.folder / 'data', classes_train=400)
        if args.submit:
            command = [sys.executable, str(Path(__file__).absolute()), *argv]
            options = dict(option.split('=', 1) for option in args.slurm)
            slurm.submit(plan, setting, ledger, command, options, print)
            print(f'`{PROG} status {setting.folder}` shows what becomes of them')
            return []
        for _ in execute(plan, setting, ledger, held, args.jobs):
            write_report(setting.folder)
    return [run_id for run_id in plan if ledger.runs[run_id].status == 'failed']


def refuse_queued(folder: Path) -> None:
    """Refuse to train where jobs of Slurm train or will train.

    Raises:
        UserError: If there are such jobs.
    """
    for run_id, job in slurm.queued_jobs(folder).items():
        advice = f'wait for the jobs in {folder}, or end them with `{PROG} cancel'
        raise UserError(f'{run_id} is submitted to Slurm: {job}; {advice} {folder}`')


def train_in_job(run: Run, setting: Setting) -> list[str]:
    """Train one run in a job of Slurm, which is put back into the queue in time."""
    ledger = Ledger.read(setting.folder)
    if run.id not in ledger.runs:
        raise UserError(
            f'{setting.folder} on {os.uname().nodename} has no ledger with {run.id}: '
            'expected a folder that is shared by the nodes and by the machine that '
            'submits'
        )
    stop_on_signals(signal.SIGUSR1)
    with tempfile.TemporaryFile('w+') as file:  # Slurm runs a job once
        [*execute({run.id: run}, setting, ledger, Lock(file))]
    return [run.id] if ledger.runs[run.id].status == 'failed' else []


def show_status(folder: Path) -> None:
    """Print a table of all runs."""
    print_status(Ledger.read(folder), slurm.queued_jobs(folder))


def cancel(folder: Path) -> None:
    """End the jobs of Slurm."""
    ids = slurm.cancel(folder)
    print(f'cancelled: {", ".join(ids)}' if ids else f'{folder}: no job in the queue')


COMMANDS = {'report': write_report, 'status': show_status, 'cancel': cancel}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    with report_user_errors(PROG):
        args = parse_args(argv)
        if args.tables[0] in COMMANDS:
            COMMANDS[args.tables[0]](Path(args.tables[1]))
            return
        try:
            failed = reproduce(args, argv)
        except KeyboardInterrupt as e:
            if e.args == (signal.SIGUSR1,):  # Slurm's time limit is near
                slurm.requeue(os.environ['SLURM_JOB_ID'])
            text = f'\n{PROG}: stopped; the same command continues from here'
            print(text, file=sys.stderr)
            sys.exit(130)
        if failed:
            text = f'error: these runs failed: {", ".join(failed)}'
            sys.exit(f'{PROG}: {text}; the same command retries them')


if __name__ == '__main__':
    main()
