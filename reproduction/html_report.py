"""Write the report of a reproduction: one HTML page that loads nothing else."""

from collections import Counter
from datetime import datetime
from itertools import groupby
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader

from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write

from . import paper
from .charts import make_charts
from .ledger import Ledger, format_duration
from .tables import describe_hardware, make_table

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters |= dict(duration=format_duration, hardware=describe_hardware)


def write_report(folder: Path) -> None:
    """Write ``report.html`` from ``ledger.json``, atomically.

    Nothing but the ledger is read, so a report can be written again, also
    while runs are in progress.

    Args:
        folder: Folder of a reproduction, which has the ledger.

    Raises:
        UserError: If there is no ledger, or it cannot be read.
    """
    if not (folder / 'ledger.json').is_file():
        expected = 'expected the folder of a reproduction'
        raise UserError(f'{folder} has no ledger.json: {expected}')
    html = render(Ledger.read(folder))
    with atomic_write(folder / 'report.html') as file:
        file.write(html)


def render(ledger: Ledger) -> str:
    """Fill ``report.html.jinja``."""
    tables = []
    shown: set[str] = set()
    for number, rows in groupby(ledger.rows, lambda row: row.table):
        table = make_table(ledger, [*rows])
        charts = {chart.source: chart for chart in make_charts(ledger, table)}
        new = [chart for source, chart in charts.items() if source not in shown]
        shown |= charts.keys()
        tables.append((number, table, new))
    entries = ledger.runs.values()
    done = {id: run.wall_s for id, run in ledger.runs.items() if run.status == 'done'}
    others = {run_id: ledger.seconds_of_others(run_id) for run_id in done}
    versions = {v for entry in entries for v in (entry.versions or {}).items() if v[1]}
    return ENVIRONMENT.get_template('report.html.jinja').render(
        ledger=ledger,
        tables=tables,
        titles=paper.titles(),
        states=Counter(entry.status for entry in entries),
        seconds=sum(entry.wall_s for entry in entries),
        of_estimate=[s / median(others[id]) for id, s in done.items() if others[id]],
        versions=sorted(versions),
        commits=sorted({entry.commit for entry in entries if entry.commit}),
        now=datetime.now(),
    )
