"""Show the state of each run of a reproduction, in this folder and in Slurm's queue."""

from collections.abc import Mapping

from rich.table import Table

from .ledger import Entry, Ledger, format_duration
from .slurm import QueuedJob, describe_lost_job


def status_table(ledger: Ledger, queued: Mapping[str, QueuedJob]) -> Table:
    """Make a table of the runs: state, progress, time, time left, and details.

    Args:
        ledger: The ledger.
        queued: From :func:`.queued_jobs`.
    """
    table = Table('Run', 'State', 'Done', 'Time', 'Left', 'Details', box=None)
    table.columns[0].no_wrap = True
    for run_id, entry in ledger.runs.items():
        state, details = get_state(ledger, run_id, queued.get(run_id))
        table.add_row(
            run_id,
            state,
            f'{entry.progress:.0%}',
            format_duration(entry.wall_s) if entry.wall_s else '',
            _time_left(entry) if state == 'running' else '',
            details,
        )
    states = [
        get_state(ledger, run_id, queued.get(run_id))[0] for run_id in ledger.runs
    ]
    names = ('done', 'running', 'waiting', 'failed')
    table.caption = ', '.join(f'{states.count(name)} {name}' for name in names)
    return table


def get_state(ledger: Ledger, run_id: str, job: QueuedJob | None) -> tuple[str, str]:
    """The state of a run, and why: Slurm's reason, or the end of the log."""
    entry = ledger.runs[run_id]
    needed = ledger.runs.get(entry.needs or '')
    if job:
        return ('running' if job.state == 'RUNNING' else 'waiting'), str(job)
    if entry.status in ('done', 'failed'):
        return entry.status, entry.error or ''
    if needed and get_state(ledger, str(entry.needs), None)[0] == 'failed':
        return 'failed', f'needs {entry.needs}, which has failed'
    if lost := describe_lost_job(ledger.folder, run_id):
        return 'failed', lost
    return entry.status, ''


def _time_left(entry: Entry) -> str:
    if not entry.progress:
        return 'unknown'
    return format_duration(entry.wall_s * (1 / entry.progress - 1))
