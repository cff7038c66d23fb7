"""Submit the runs of a plan to Slurm, and ask Slurm about them.

The queue itself says what was submitted: a job has the name of its run with a
digest of the folder, and its index in the array is the seed. So nothing is lost
with the machine that has submitted. Plain sbatch and squeue suffice; submitit asks
sacct, and where a cluster keeps no accounts it waited for minutes after each job.
"""

import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ra_mm.errors import UserError

from .job import make_job
from .ledger import Ledger
from .plan import Run, Setting
from .results import read_tail

FIELDS = '%F_%K|%T|%r|%u|%N|%j'
STOP_BEFORE_LIMIT_S = 120


class QueuedJob(NamedTuple):
    """A job that waits or runs: id, state, reason, user and nodes as Slurm has them."""

    id: str
    state: str
    reason: str
    user: str
    nodes: str

    def __str__(self) -> str:
        where = f'on {self.nodes}' if self.nodes else self.reason
        return f'job {self.id} of {self.user}, {self.state.lower()} ({where})'


def queued_jobs(folder: Path) -> dict[str, QueuedJob]:
    """The jobs that train in a folder, by the id of the run.

    Raises:
        UserError: If Slurm does not answer.
    """
    jobs = {}
    if log_file(folder, '').parent.exists():  # else nothing was submitted
        lines = _call('squeue', '--noheader', '--array', f'--format={FIELDS}')
        for line in lines.splitlines():
            *fields, name = line.split('|')
            run, _, digest = name.rpartition('@')
            if digest == _digest(folder):
                seed = fields[0].rpartition('_')[2]
                jobs[f'{run}-seed{seed}'] = QueuedJob(*fields)
    return jobs


def submit(
    plan: Mapping[str, Run],
    setting: Setting,
    ledger: Ledger,
    command: Sequence[str],
    options: Mapping[str, str],
    report: Callable[[str], None],
) -> None:
    """Submit the runs that are neither done nor in the queue.

    The seeds of a row are an array. An element waits for the element that trains
    the backbone of the same seed; if that fails, Slurm cancels it.

    Args:
        plan: Runs by id; each follows the run that it needs.
        setting: What the runs have in common.
        ledger: Says which runs are done.
        command: The command line to which ``--run ID`` is added.
        options: Long options of sbatch, without the dashes.
        report: Called with a line for each array, and for each run that is queued.

    Raises:
        UserError: If there is no sbatch, or it refuses a job.
    """
    if not shutil.which('sbatch'):
        raise UserError('--submit slurm: this machine has no sbatch')
    log_file(setting.folder, '').parent.mkdir(exist_ok=True)
    queued = queued_jobs(setting.folder)
    job_ids = {run_id: job.id.partition('_')[0] for run_id, job in queued.items()}
    arrays: dict[str, list[Run]] = {}
    for run in plan.values():
        if run.id in queued:
            report(f'{run.id} is submitted already: {queued[run.id]}')
        elif ledger.runs[run.id].status != 'done':
            arrays.setdefault(run.name, []).append(run)
    for runs in arrays.values():
        by_dependency: dict[str | None, list[Run]] = {}
        for run in runs:
            is_open = run.needs and ledger.runs[run.needs.id].status != 'done'
            needed = job_ids[run.needs.id] if run.needs and is_open else None
            by_dependency.setdefault(needed, []).append(run)
        for needed, array in by_dependency.items():
            call = sbatch_command(array, needed, setting, command, options)
            job_id = _call(*call).strip().partition(';')[0]
            job_ids |= {run.id: job_id for run in array}
            after = f', after job {needed}' if needed else ''
            names = ', '.join(run.id for run in array)
            report(f'job {job_id}: {names}{after}')
            for run in array:
                with open(log_file(setting.folder, run.id), 'a') as log:
                    log.write(f'submitted as job {job_id}_{run.seed}\n')


def sbatch_command(
    array: Sequence[Run],
    needed: str | None,
    setting: Setting,
    command: Sequence[str],
    options: Mapping[str, str],
) -> list[str]:
    """The call of sbatch for runs that differ by their seeds.

    Args:
        array: The runs.
        needed: Id of the array whose elements have to succeed first.
        setting, command, options: As in :func:`submit`.
    """
    run, folder = array[0], setting.folder.absolute()
    log = log_file(folder, f'{run.name}-seed%a')
    tasks = setting.gpus_per_node if setting.launcher == 'slurm' else 1
    loader = make_job(run, setting).cfg.train_dataloader
    cpus = (loader.num_workers or 1) * setting.gpus_per_node // tasks
    flags = {
        'job-name': f'{run.name}@{_digest(folder)}',
        'array': ','.join(str(run.seed) for run in array),
        'output': str(log),
        'open-mode': 'append',
        'signal': f'B:USR1@{STOP_BEFORE_LIMIT_S}',
        'nodes': str(setting.nodes),
        'ntasks-per-node': str(tasks),
        'cpus-per-task': str(cpus),
    }
    if setting.scale == 'full':
        flags['gres'] = f'gpu:{setting.gpus_per_node}'
    if needed:
        flags['dependency'] = f'aftercorr:{needed}'
    run_id = f'{run.name}-seed$SLURM_ARRAY_TASK_ID'
    return [
        *('sbatch', '--parsable', '--requeue', '--kill-on-invalid-dep=yes'),
        *(f'--{name}={value}' for name, value in (flags | dict(options)).items()),
        f'--wrap=exec {shlex.join(command)} --run {run_id}',
    ]


def cancel(folder: Path) -> list[str]:
    """Cancel the jobs that wait or run, and return their ids."""
    ids = [job.id for job in queued_jobs(folder).values()]
    if ids:
        _call('scancel', *ids)
    return ids


def log_file(folder: Path, run_id: str) -> Path:
    """The log of the jobs of a run."""
    return folder / f'slurm/{run_id}.log'


def describe_lost_job(folder: Path, run_id: str) -> str | None:
    """Say how the last job of a run has ended that left no result, if there was one."""
    log = log_file(folder, run_id)
    if not log.exists():
        return None
    tail = read_tail(log)
    if tail.rpartition('\n')[2].startswith('submitted as job'):
        return f'{tail}: cancelled, or its node does not have {folder}'
    return f'its job has ended without a result:\n{tail}'


def requeue(job_id: str) -> None:
    """Put a running job back into the queue, which ends it."""
    _call('scontrol', 'requeue', job_id)


def _digest(folder):
    return hashlib.sha1(str(folder.absolute()).encode()).hexdigest()[:8]


def _call(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as e:
        raise UserError(f'{command[0]} cannot be run: {e.strerror}') from e
    except subprocess.CalledProcessError as e:
        reason = '; '.join(e.stderr.strip().splitlines())
        raise UserError(f'{command[0]} has failed: {reason}') from e
    return done.stdout
