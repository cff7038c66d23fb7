"""A reproduction's ledger as a page: report.md and report.html."""

import re
from collections import Counter
from datetime import datetime
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np

from ra_mm.fileio import atomic_write

from .charts import fig5, table_charts
from .ledger import Ledger
from .tables import duration, hardware, make_table

CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#626b76;--page:#fff;
--line:#d5dae0;--soft:#f3f5f7;--warn:#8f1d14;--warnbg:#fde8e4;--key:#0b57a4}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--dim:#9aa4b0;
--page:#15181c;--line:#363c44;--soft:#1e2329;--warn:#ffb4a8;--warnbg:#4a1712;
--key:#7db8f5}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--page);max-width:1240px;margin:0 auto;padding:12px 20px 40px}
h1{font-size:1.6em;line-height:1.25}
h2{margin:2.2em 0 .5em;border-bottom:1px solid var(--line)}
a{color:var(--key)}nav a{margin-right:1em;white-space:nowrap}
.banner,b.demo{color:var(--warn);font-weight:700}
.banner{background:var(--warnbg);border:2px solid;padding:10px 14px;
text-align:center}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto;margin:.8em 0}
table{border-collapse:collapse;font-size:12px;line-height:1.3;
font-variant-numeric:tabular-nums}.wide table{min-width:100%}
caption{text-align:left;color:var(--dim);padding-bottom:6px}
@media screen{caption{position:sticky;left:0;max-width:min(1200px,90vw)}}
th,td{padding:4px;text-align:right;vertical-align:top;white-space:nowrap}
thead th{border-bottom:1px solid var(--line);white-space:normal}
th.first,td.first{border-left:1px solid var(--line)}
tr.group th{text-align:left;background:var(--soft);padding-top:7px}
tr.group span,.name{position:sticky;left:0}
th.name{text-align:left;font-weight:400;background:var(--page);z-index:1}
td.text{text-align:left;white-space:normal;min-width:80px;font-size:11.5px}
td.seeds{white-space:normal}
td small{display:block}td.ours{font-weight:600}
td small,sup{font-weight:400}
td small,td.paper,td.muted,td.state,.notes,.key{color:var(--dim)}
td.muted,td.state{font-style:italic}td.failed{color:var(--warn)}
.notes,.key,figcaption{font-size:.83em}
figcaption .key{font-size:1em}.notes{padding-left:1.6em}
.key span{margin-right:14px;white-space:nowrap}
.key i{display:inline-block;width:18px;border-top:3px solid;
vertical-align:middle;margin-right:5px}
.bars{width:100%;max-width:680px}.bars th{font-weight:400;width:1%}
.bars td{text-align:left;padding:2px 7px;line-height:1.2}
.bars i{display:inline-block;height:9px;margin-right:6px}
.charts{display:grid;gap:8px 18px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr))}
figure{margin:0;break-inside:avoid}
svg{width:100%;height:auto;display:block;fill:none;stroke-linejoin:round}
svg text{fill:var(--ink);font-size:11px}svg .grid{stroke:var(--line)}
img{max-width:100%;background:#fff;border-radius:4px}
pre{background:var(--soft);padding:10px;overflow-x:auto;font-size:12px}
details{margin:22px 0}summary{cursor:pointer;font-weight:600}
.bars{margin:8px 0}h2,h3,summary,caption{break-after:avoid}
@media print{body{max-width:none;font-size:11px;padding:0}nav{display:none}
*{print-color-adjust:exact}.wide{overflow:visible}table{font-size:8.5px}
th,td{padding:2px 3px}pre{white-space:pre-wrap}tr{break-inside:avoid}
.charts{grid-template-columns:repeat(3,1fr)}}
"""


def write_report(folder: Path) -> None:
    """Write ``report.md`` and ``report.html`` from ``ledger.json``.

    Nothing but the ledger is read, so a report can be made again, and while
    runs are under way. Each file is written whole or not at all.

    Args:
        folder (Path): Folder of a reproduction, which has the ledger.

    Raises:
        ValueError: If there is no ledger or it cannot be read.
        OSError: If the folder cannot be written to.
    """
    folder = Path(folder)
    if not (folder / 'ledger.json').is_file():
        raise ValueError(
            f'{folder} has no ledger.json: expected the folder of a reproduction'
        )
    ledger = Ledger(folder).content
    tables = [
        make_table(ledger, list(rows))
        for _, rows in groupby(ledger['rows'], lambda row: row['table'])
    ]
    pages = [
        ('report.md', _markdown(ledger, tables, folder)),
        ('report.html', _html(ledger, tables, folder)),
    ]
    for name, text in pages:
        with atomic_write(folder / name) as file:
            file.write(text)


# What the ledger says of all runs


def _title(ledger):
    if ledger['data']:
        return f'plain, SE, CBAM and RA on {Path(ledger["data"]).name}'
    tables = dict.fromkeys(str(row['table']) for row in ledger['rows'])
    return f'Reverse attention: Table{"s" * (len(tables) != 1)} ' + (
        ', '.join(tables) or '2 to 10'
    )


def _banner(ledger):
    if ledger['scale'] != 'demo':
        return ''
    images = Path(ledger['data']).name if ledger['data'] else 'drawn shapes'
    return f'DEMO SCALE - not a reproduction: tiny nets on {images}'


def _facts(ledger):
    """Label and value of what the reader has to know first."""
    runs = list(ledger['runs'].values())
    states = Counter(run['status'] for run in runs)
    versions = {
        ' '.join(version)
        for run in runs
        for version in (run.get('versions') or {}).items()
        if version[1]
    }
    commits = {run['commit'] for run in runs if run.get('commit')}
    usual = 'drawn shapes' if ledger['scale'] == 'demo' else 'ImageNet-1K, COCO, ADE20K'
    return {
        'Scale': ledger['scale'] or 'none yet',
        'Data': ledger['data'] or usual,
        'Seeds': f'{ledger["seeds"]} a row',
        'Runs': f'{states["done"]} done, {states["running"]} running, '
        f'{states["failed"]} failed, {states["waiting"]} not run',
        'Training time': f'{duration(sum(run.get("wall_s") or 0 for run in runs))} in all',
        'Hardware': hardware(runs) or 'none yet',
        'Versions': ', '.join(sorted(versions)) or 'none yet',
        'Commit': ', '.join(sorted(commits)) or 'unknown',
        'Written': f'{datetime.now():%Y-%m-%d %H:%M}',
    }


def _failed(ledger):
    return [
        (name, run.get('error') or 'nothing in its log')
        for name, run in ledger['runs'].items()
        if run['status'] == 'failed'
    ]


def _again(folder):
    return f'python tools/reproduce.py report {folder}'


# Markdown


def _markdown(ledger, tables, folder):
    banner = _banner(ledger)
    warning = [f'**{banner}**', ''] if banner else []
    lines = [f'# {_md(_title(ledger))}', '', *warning]
    lines += [f'- {label}: {_md(value)}' for label, value in _facts(ledger).items()]
    lines += ['', 'With charts: [report.html](report.html)', '']
    for table in tables:
        heads = [''] + [
            f'{head}: {sub}' if sub else head
            for head, subs in table['heads']
            for sub in subs
        ]
        lines += [
            f'## {_md(table["title"])}',
            '',
            *warning,
            _md(table['how']),
            '',
            _md_row(heads),
            '|---' * len(heads) + '|',
        ]
        group = None
        for row, cells in table['body']:
            if row['group'] != group:
                group = row['group']
                lines.append(_md_row([group] + [''] * (len(heads) - 1)))
            texts = [
                f'{c.text} {c.small}' + f' ({c.note})' * bool(c.note) for c in cells
            ]
            lines.append(_md_row([row['name'], *texts]))
        lines += [''] + [
            f'({i}) {_md(note)}  ' for i, note in enumerate(table['notes'], 1)
        ]
        lines += [''] + [f'- {_md(text)}' for text in table['readings']] + ['']
    for name, error in _failed(ledger):
        lines += [f'## Failed: {_md(name)}', '']
        lines += [f'    {line}' for line in error.splitlines()] + ['']
    return '\n'.join([*lines, '## This report again', '', f'    {_again(folder)}', ''])


def _md(text):
    return re.sub(r'([\\`*_<>|\[\]#])', r'\\\1', ' '.join(text.split()))


def _md_row(texts):
    return f'| {" | ".join(map(_md, texts))} |'


# HTML


def _html(ledger, tables, folder):
    title, banner = escape(_title(ledger)), escape(_banner(ledger))
    drawn, sections = set(), []
    for table in tables:
        readings = (f'<p>{escape(text)}</p>' for text in table['readings'])
        charts = table_charts(ledger, table, drawn)
        sections.append(
            (table['title'], ''.join([_html_table(table, banner), *readings, *charts]))
        )
    sections += [
        ('Fig. 5: gates by channel and class', ''.join(fig5(ledger, banner))),
        (
            'Failed runs',
            ''.join(
                f'<h3>{escape(name)}</h3><pre>{escape(error)}</pre>'
                for name, error in _failed(ledger)
            ),
        ),
        ('All runs', _html_runs(ledger)),
        (
            'This report again',
            '<p>From ledger.json alone, without training:'
            f'</p><pre>{escape(_again(folder))}</pre>',
        ),
    ]
    sections = [(f's{i}', *section) for i, section in enumerate(sections) if section[1]]
    return '\n'.join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f'<title>{banner}{": " * bool(banner)}{title}</title>',
            f'<style>{CSS}</style></head><body>',
            f'<div class="banner">{banner}</div>' * bool(banner),
            f'<h1>{title}</h1><dl>',
            *(
                f'<dt>{label}</dt><dd>{escape(value)}</dd>'
                for label, value in _facts(ledger).items()
            ),
            '</dl><nav>',
            *(
                f'<a href="#{place}">{escape(head.partition(":")[0])}</a>'
                for place, head, _ in sections
            ),
            '</nav>',
            *(
                f'<h2 id="{place}">{escape(head)}</h2>\n{text}'
                for place, head, text in sections
            ),
            '</body></html>\n',
        ]
    )


def _html_table(table, banner):
    heads, body, group = table['heads'], [], None
    firsts = np.cumsum([0] + [len(subs) for _, subs in heads])
    top = ''.join(
        f'<th class="first" colspan="{len(subs)}">{escape(head)}</th>'
        for head, subs in heads
    )
    subs = ''.join(
        f'<th class="{"first" * (i == 0)}">{sub}</th>'
        for _, subs in heads
        for i, sub in enumerate(subs)
    )
    for row, cells in table['body']:
        if row['group'] != group:
            group = row['group']
            body.append(
                f'<tr class="group"><th colspan="{firsts[-1] + 1}">'
                f'<span>{escape(group)}</span></th></tr>'
            )
        body.append(f'<tr><th class="name">{escape(row["name"])}</th>')
        for i, cell in enumerate(cells):
            note = f'<sup>({cell.note})</sup>' * bool(cell.note)
            small = f'<small>{escape(cell.small)}</small>' * bool(cell.small)
            body.append(
                f'<td class="{cell.kind}{" first" * (i in firsts)}">'
                f'{escape(cell.text)}{note}{small}</td>'
            )
    notes = ''.join(f'<li>{escape(note)}</li>' for note in table['notes'])
    return (
        '<div class="wide"><table><caption>'
        f'<b class="demo">{banner}</b> {escape(table["how"])}</caption>'
        f'<thead><tr><th class="name"></th>{top}</tr><tr>'
        f'<th class="name"></th>{subs}</tr></thead><tbody>{"".join(body)}'
        f'</tbody></table></div><ol class="notes">{notes}</ol>'
    )


def _html_runs(ledger):
    """What does not fit into the tables: memory, scaling, commands."""
    lines = []
    for name, run in ledger['runs'].items():
        memory, seconds = run.get('peak_memory_mb'), run.get('wall_s')
        status = run['status'].replace('waiting', 'not run')
        texts = (
            name,
            status,
            run.get('needs') or '–',
            duration(seconds) if seconds else '–',
            f'{memory:.0f} MB' if memory else '–',
            hardware([run]),
            run.get('scaling') or '–',
        )
        lines += ['<tr>', *(f'<td class="text">{escape(t)}' for t in texts)]
    heads = (
        'Run',
        'Status',
        'Starts from',
        'Time',
        'Peak memory',
        'Hardware',
        'Scaled',
    )
    commands = '\n'.join(
        run['command'] for run in ledger['runs'].values() if run.get('command')
    )
    return (
        (
            '<div class="wide"><table><thead><tr>'
            + ''.join(f'<th class="name">{head}' for head in heads)
            + f'</thead><tbody>{"".join(lines)}</tbody></table></div><details>'
            f'<summary>Commands</summary><pre>{escape(commands)}</pre>'
            '</details>'
        )
        if lines
        else '<p>No row has been asked for.</p>'
    )
