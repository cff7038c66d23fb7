"""Write the report of a reproduction: one HTML page that loads nothing else."""

from collections import Counter
from datetime import datetime
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write

from .charts import make_charts
from .ledger import Ledger, format_duration
from .tables import describe_hardware, make_table


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
        raise UserError(
            f'{folder} has no ledger.json: expected the folder of a reproduction'
        )
    html = render(Ledger.read(folder))
    with atomic_write(folder / 'report.html') as file:
        file.write(html)


def render(ledger: Ledger) -> str:
    """Fill ``report.html.jinja``."""
    shown: set = set()
    tables = [
        make_table(ledger, [*rows])
        for _, rows in groupby(ledger.rows, lambda row: row.table)
    ]
    return _template().render(
        title=_title(ledger),
        banner=_banner(ledger),
        facts=_facts(ledger),
        tables=[(table, [*make_charts(ledger, table, shown)]) for table in tables],
        ledger=ledger,
    )


@lru_cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters['duration'] = format_duration
    environment.filters['hardware'] = describe_hardware
    return environment.get_template('report.html.jinja')


def _title(ledger):
    if ledger.data:
        return f'Attentions compared on {Path(ledger.data).name}'
    tables = dict.fromkeys(row.table for row in ledger.rows)
    numbers = [str(table) for table in tables if isinstance(table, int)]
    if ledger.rows and not numbers:
        return 'Reverse attention: beyond the paper'
    plural = '' if len(numbers) == 1 else 's'
    return f'Reverse attention: Table{plural} {", ".join(numbers) or "2 to 10"}'


def _banner(ledger):
    if ledger.scale != 'demo':
        return ''
    images = Path(ledger.data).name if ledger.data else 'drawn shapes'
    return f'DEMO SCALE - not a reproduction: tiny networks on {images}'


def _facts(ledger):
    """Labels and values of what the reader must know first."""
    entries = ledger.runs.values()
    states = Counter(entry.status for entry in entries)
    versions = {v for entry in entries for v in (entry.versions or {}).items() if v[1]}
    commits = {entry.commit for entry in entries if entry.commit}
    paper_data = 'ImageNet-1K, COCO, ADE20K'
    return {
        'Scale': ledger.scale or 'none yet',
        'Data': ledger.data
        or ('drawn shapes' if ledger.scale == 'demo' else paper_data),
        'Seeds': f'{ledger.seeds} for each row',
        'Runs': f'{states["done"]} done, {states["running"]} running, '
        f'{states["failed"]} failed, {states["waiting"]} not run',
        'Training time': format_duration(sum(entry.wall_s for entry in entries)),
        'Hardware': describe_hardware(entries) or 'none yet',
        'Versions': ', '.join(' '.join(v) for v in sorted(versions)) or 'none yet',
        'Commit': ', '.join(sorted(commits)) or 'unknown',
        'Written': f'{datetime.now():%Y-%m-%d %H:%M}',
    }
