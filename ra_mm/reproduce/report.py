"""Writes the report of a reproduction: one HTML page that loads nothing else."""

from collections import Counter
from datetime import datetime
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write

from .ledger import Ledger
from .plots import gate_figures, table_figures
from .progress import format_duration
from .tables import Table, hardware, make_table

# System colours follow the light or dark mode; images keep a white background.
CSS = """
:root{color-scheme:light dark}a{margin-right:1em}
body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:auto;padding:20px}
h2{margin:2.2em 0 .5em;border-bottom:1px solid #8886}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px}
dd{margin:0;overflow-wrap:anywhere}
b.demo,td.failed{color:#d4483b}b.demo{font-weight:700}
.banner{background:#8f1d14;color:#fff;padding:10px;text-align:center;font-weight:700}
.scroll,figure,pre{overflow-x:auto}figure{margin:14px 0}
table{border-collapse:collapse;font-size:12px;line-height:1.3;min-width:100%}
th,td{padding:4px;text-align:right;vertical-align:top;white-space:nowrap}
caption,th.name,td.text,tr.group th{text-align:left}
thead th{border-bottom:1px solid #8886}tr.group th,pre{background:#8882}
th.name{position:sticky;left:0;font-weight:400;background:Canvas}
th.first,td.first{border-left:1px solid #8886}td.ours{font-weight:600}
td small{display:block}td small,sup{font-weight:400}
dt,caption,td small,td.paper,td.muted,td.state,.notes{
color:color-mix(in srgb,CanvasText 65%,Canvas)}
td.muted,td.state{font-style:italic}.notes{font-size:12px;padding-left:1.6em}
img{background:#fff;border-radius:6px;padding:6px}pre{padding:10px;font-size:12px}
@media print{body,img{max-width:100%}tr,figure{break-inside:avoid}}
"""


def write_report(folder: Path) -> None:
    """Write ``report.html`` from ``ledger.json``, atomically.

    Nothing but the ledger is read, so a report can be written again, also
    while runs are in progress.

    Args:
        folder: Folder of a reproduction, which has the ledger.

    Raises:
        UserError: If there is no ledger, it cannot be read, or the report
            cannot be written.
    """
    folder = Path(folder)
    if not (folder / 'ledger.json').is_file():
        raise UserError(
            f'{folder} has no ledger.json: expected the folder of a reproduction'
        )
    html = render(Ledger(folder).content, folder)
    try:
        with atomic_write(folder / 'report.html') as file:
            file.write(html)
    except OSError as e:
        raise UserError(
            f'{folder / "report.html"} cannot be written: {e.strerror}'
        ) from e


def render(ledger: dict, folder: Path) -> str:
    """The page for a ledger.

    Args:
        ledger: Content of the ledger.
        folder: Its folder, for the command that writes the page again.
    """
    title, banner = escape(_title(ledger)), escape(_banner(ledger))
    sections = [
        (place, head, body)
        for place, (head, body) in enumerate(_sections(ledger, banner, folder))
        if body
    ]
    return '\n'.join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f'<title>{banner}{": " if banner else ""}{title}</title>',
            f'<style>{CSS}</style></head><body>',
            f'<div class="banner">{banner}</div>' if banner else '',
            f'<h1>{title}</h1><dl>',
            *(
                f'<dt>{label}</dt><dd>{escape(value)}</dd>'
                for label, value in _facts(ledger).items()
            ),
            '</dl><nav>',
            *(
                f'<a href="#s{place}">{escape(head.partition(":")[0])}</a>'
                for place, head, _ in sections
            ),
            '</nav>',
            *(
                f'<h2 id="s{place}">{escape(head)}</h2>\n{body}'
                for place, head, body in sections
            ),
            '</body></html>\n',
        ]
    )


def _title(ledger):
    if ledger['data']:
        return f'Attentions compared on {Path(ledger["data"]).name}'
    tables = dict.fromkeys(row['table'] for row in ledger['rows'])
    tables = [str(table) for table in tables if isinstance(table, int)]
    if ledger['rows'] and not tables:
        return 'Reverse attention: beyond the paper'
    plural = '' if len(tables) == 1 else 's'
    return f'Reverse attention: Table{plural} {", ".join(tables) or "2 to 10"}'


def _banner(ledger):
    if ledger['scale'] != 'demo':
        return ''
    images = Path(ledger['data']).name if ledger['data'] else 'drawn shapes'
    return f'DEMO SCALE - not a reproduction: tiny networks on {images}'


def _facts(ledger):
    """Labels and values of what the reader must know first."""
    runs = list(ledger['runs'].values())
    states = Counter(run['status'] for run in runs)
    versions = {
        f'{name} {version}'
        for run in runs
        for name, version in (run.get('versions') or {}).items()
        if version
    }
    commits = {run['commit'] for run in runs if run.get('commit')}
    default = (
        'drawn shapes' if ledger['scale'] == 'demo' else 'ImageNet-1K, COCO, ADE20K'
    )
    return {
        'Scale': ledger['scale'] or 'none yet',
        'Data': ledger['data'] or default,
        'Seeds': f'{ledger["seeds"]} for each row',
        'Runs': f'{states["done"]} done, {states["running"]} running, '
        f'{states["failed"]} failed, {states["waiting"]} not run',
        'Training time': format_duration(sum(run.get('wall_s') or 0 for run in runs)),
        'Hardware': hardware(runs) or 'none yet',
        'Versions': ', '.join(sorted(versions)) or 'none yet',
        'Commit': ', '.join(sorted(commits)) or 'unknown',
        'Written': f'{datetime.now():%Y-%m-%d %H:%M}',
    }


def _sections(ledger, banner, folder):
    """Headings and bodies; a section without a body is left out."""
    shown = set()
    for _, rows in groupby(ledger['rows'], lambda row: row['table']):
        table = make_table(ledger, list(rows))
        readings = (f'<p>{escape(text)}</p>' for text in table.readings)
        figures = table_figures(ledger, table, shown)
        yield table.title, ''.join([_table(table, banner), *readings, *figures])
    yield (
        'Fig. 5: gates by channel and class',
        ''.join(
            f'<h3>{escape(run_id)}</h3><b class="demo">{banner}</b>{images}'
            for run_id, images in gate_figures(ledger)
        ),
    )
    yield (
        'Failed runs',
        ''.join(
            f'<h3>{escape(run_id)}</h3>'
            f'<pre>{escape(run.get("error") or "its log is empty")}</pre>'
            for run_id, run in ledger['runs'].items()
            if run['status'] == 'failed'
        ),
    )
    yield 'All runs', _all_runs(ledger)
    yield (
        'Write this report again',
        '<p>From ledger.json, without training:</p>'
        f'<pre>python tools/reproduce.py report {escape(str(folder))}</pre>',
    )


def _table(table: Table, banner: str) -> str:
    sizes = [len(subs) for _, subs in table.columns]
    first_columns = {int(i) for i in np.cumsum([0, *sizes])}
    heads = ''.join(
        f'<th class="first" colspan="{len(subs)}">{escape(head)}</th>'
        for head, subs in table.columns
    )
    subheads = ''.join(
        f'<th class="{"" if i else "first"}">{sub}</th>'
        for _, subs in table.columns
        for i, sub in enumerate(subs)
    )
    body = []
    for group, pairs in groupby(
        zip(table.rows, table.cells), lambda pair: pair[0]['group']
    ):
        body.append(
            f'<tr class="group"><th colspan="{sum(sizes) + 1}">{escape(group)}</th></tr>'
        )
        for row, cells in pairs:
            body.append(f'<tr><th class="name">{escape(row["name"])}</th>')
            for i, cell in enumerate(cells):
                first = ' first' if i in first_columns else ''
                note = f'<sup>({cell.note})</sup>' if cell.note else ''
                small = f'<small>{escape(cell.small)}</small>' if cell.small else ''
                body.append(
                    f'<td class="{cell.kind}{first}">{escape(cell.text)}{note}{small}</td>'
                )
            body.append('</tr>')
    notes = ''.join(f'<li>{escape(note)}</li>' for note in table.notes)
    return (
        '<div class="scroll"><table><caption>'
        f'<b class="demo">{banner}</b> {escape(table.caption)}</caption>'
        f'<thead><tr><th class="name"></th>{heads}</tr>'
        f'<tr><th class="name"></th>{subheads}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div><ol class="notes">{notes}</ol>'
    )


def _all_runs(ledger):
    """Memory, learning rate and commands, for which the tables have no room."""
    if not ledger['runs']:
        return '<p>No row has been requested.</p>'
    body, commands = [], []
    for run_id, run in ledger['runs'].items():
        memory, seconds = run.get('peak_memory_mb'), run.get('wall_s')
        texts = (
            run_id,
            run['status'].replace('waiting', 'not run'),
            run.get('needs') or '–',
            format_duration(seconds) if seconds else '–',
            f'{memory:.0f} MB' if memory else '–',
            hardware([run]) or '–',
            run.get('scaling') or '–',
        )
        cells = (f'<td class="text">{escape(text)}</td>' for text in texts)
        body.append(f'<tr>{"".join(cells)}</tr>')
        if run.get('command'):
            commands.append(escape(run['command']))
    heads = 'Run, Status, Starts from, Time, Peak memory, Hardware, Learning rate'
    heads = ''.join(f'<th class="name">{head}</th>' for head in heads.split(', '))
    commands = '\n'.join(commands)
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table></div>'
        f'<details><summary>Commands</summary><pre>{commands}</pre></details>'
    )
