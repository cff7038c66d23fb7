"""Show the state of each run of a reproduction, in this folder and in Slurm's queue."""

import sys
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from .ledger import Ledger, format_duration
from .slurm import QueuedJob, describe_lost_job


def print_status(ledger: Ledger, queued: Mapping[str, QueuedJob]) -> None:
    """Print a table of the runs, and below it why runs have failed.

    Args:
        ledger: The ledger.
        queued: From :func:`.queued_jobs`.
    """
    states = {id: get_state(ledger, id, queued.get(id)) for id in ledger.runs}
    table = Table('Run', 'State', 'Done', 'Time', 'Left', 'Job', box=None)
    for run_id, entry in ledger.runs.items():
        state, details = states[run_id]
        seconds, done = entry.wall_s, 1.0 if state == 'done' else entry.progress
        left = seconds / done - seconds if done and state == 'running' else None
        durations = (format_duration(s) if s else '' for s in (seconds, left))
        text = details if state != 'failed' else ''
        table.add_row(run_id, state, f'{done:.0%}', *durations, text)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table, highlight=False)
    for run_id, (state, details) in states.items():
        if state == 'failed':
            print(f'\n{run_id} has failed: {details}')
    counts = Counter(state for state, _ in states.values())
    print(f'\n{", ".join(f"{count} {state}" for state, count in counts.items())}')


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
