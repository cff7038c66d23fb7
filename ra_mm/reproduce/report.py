"""A reproduction's ledger as a page: report.md and report.html."""
import base64
import io
import json
import math
import re
from collections import Counter
from datetime import datetime
from functools import lru_cache
from html import escape
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from ra_mm import gates, paper
from ra_mm.utils.files import whole_file

from .ledger import Ledger

TITLES = {
    2: 'ResNet', 3: 'MobileNetV2', 4: 'Object detection',
    5: 'Instance and semantic segmentation', 6: 'Feature aggregation',
    7: 'Feature normalisation', 8: 'Activation function',
    9: 'Temperature annealing', 10: 'Training epochs'
}
COUNTS = ('params', 'flops', 'hours', 'epochs')  # what is no accuracy
HOW = ('ours: mean over the seeds that are done; ±: their sample standard '
       'deviation, none for one seed')
COLOURS = ('#8a8f98', '#3f8fd9', '#d98a1f', '#d9485f', '#3fa66b', '#9a6fd0',
           '#1fa3a8')
STAGES = ('#8a63d2', '#b8509f', '#d0506f', '#e2773f', '#dfa32a', '#9fae3a',
          '#4fae7c')
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


class Cell(NamedTuple):
    """A cell of a table, for both forms of the report."""
    text: str
    kind: str = 'ours'  # its class in the HTML
    small: str = ''  # second line
    note: int = 0  # number of its footnote


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
        raise ValueError(f'{folder} has no ledger.json: expected the folder '
                         'of a reproduction')
    ledger = Ledger(folder).content
    tables = [
        _table(ledger, list(rows))
        for _, rows in groupby(ledger['rows'], lambda row: row['table'])
    ]
    pages = [('report.md', _markdown(ledger, tables, folder)),
             ('report.html', _html(ledger, tables, folder))]
    for name, text in pages:
        with whole_file(folder / name) as file:
            file.write(text)


# What the ledger says


def _title(ledger):
    if ledger['data']:
        return f'plain, SE, CBAM and RA on {Path(ledger["data"]).name}'
    tables = dict.fromkeys(str(row['table']) for row in ledger['rows'])
    return f'Reverse attention: Table{"s" * (len(tables) != 1)} ' + (
        ', '.join(tables) or '2 to 10')


def _banner(ledger):
    if ledger['scale'] != 'demo':
        return ''
    images = Path(ledger['data']).name if ledger['data'] else 'drawn shapes'
    return f'DEMO SCALE - not a reproduction: tiny nets on {images}'


def _facts(ledger):
    """Label and value of what the reader has to know first."""
    runs = list(ledger['runs'].values())
    states = Counter(run['status'] for run in runs)
    versions = {' '.join(version) for run in runs
                for version in (run.get('versions') or {}).items()
                if version[1]}
    commits = {run['commit'] for run in runs if run.get('commit')}
    usual = ('drawn shapes' if ledger['scale'] == 'demo' else
             'ImageNet-1K, COCO, ADE20K')
    return {
        'Scale': ledger['scale'] or 'none yet',
        'Data': ledger['data'] or usual,
        'Seeds': f'{ledger["seeds"]} a row',
        'Runs': f'{states["done"]} done, {states["running"]} running, '
        f'{states["failed"]} failed, {states["waiting"]} not run',
        'Training time':
        f'{_duration(sum(run.get("wall_s") or 0 for run in runs))} in all',
        'Hardware': _hardware(runs) or 'none yet',
        'Versions': ', '.join(sorted(versions)) or 'none yet',
        'Commit': ', '.join(sorted(commits)) or 'unknown',
        'Written': f'{datetime.now():%Y-%m-%d %H:%M}',
    }


def _duration(seconds):
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'


def _hardware(runs):
    used = {tuple(run['hardware'].values()) for run in runs
            if run.get('hardware')}
    return ', '.join(sorted(f'{count} × {name}' for name, count in used))


def _runs(ledger, row):
    """The runs of a row that are in the ledger."""
    return [ledger['runs'][n] for n in row['runs'] if n in ledger['runs']]


def _done(ledger, row):
    return [run for run in _runs(ledger, row) if run['status'] == 'done']


def _values(runs, metric):
    """The metric of those runs that have it."""
    if metric == 'hours':
        values = [(run.get('wall_s') or math.nan) / 3600 for run in runs]
    elif metric in COUNTS:
        values = [run.get(metric) for run in runs]
    else:
        values = [(run.get('metrics') or {}).get(metric) for run in runs]
    return [v for v in values if v is not None and math.isfinite(v)]


_headings = lru_cache()(paper.metrics)  # reads a file


@lru_cache()
def _baselines():
    """The first row of each group, which may be missing in a ledger."""
    return {(row.table, row.group): row.name for row in paper.rows()[::-1]}


def _baseline(ledger, row):
    """What the row is compared with, None if that has not been asked for."""
    group = [r for r in ledger['rows']
             if (r['table'], r['group']) == (row['table'], row['group'])]
    name = _baselines().get((row['table'], row['group']))
    return next((r for r in group if r['name'] == name), None)


def _ratios(ledger, row):
    """Hours against the baseline's, the paper's and ours, or None."""
    base = _baseline(ledger, row)
    if base is None:
        return None, None
    theirs = [float(r['paper'].get('hours', 'nan')) for r in (row, base)]
    runs = [_done(ledger, r) for r in (row, base)]
    ours = [_values(r, 'hours') for r in runs]
    same = _hardware(runs[0]) == _hardware(runs[1])
    return (None if math.isnan(sum(theirs)) else theirs[0] / theirs[1],
            mean(ours[0]) / mean(ours[1]) if all(ours) and same else None)


def _number(value, digits, sign=''):
    value = round(value, digits) + 0.0  # no -0.0
    return f'{value:{sign}.{digits}f}'.replace('-', '−')


def _table(ledger, rows):
    """A table in cells, which both forms of the report show."""
    has = {metric for row in rows for metric in row['paper']}
    if ledger['data']:
        runs = [run for row in rows for run in _done(ledger, row)]
        has = {metric for metric in _headings() if _values(runs, metric)}
    metrics = {m: head for m, head in _headings().items() if m in has}
    main = next((m for m in metrics if m not in COUNTS), None)
    heads = [(head, _subheads(ledger, m)) for m, head in metrics.items()]
    heads.append(('Seeds', ['done']))
    used = _hardware(run for row in rows for run in _done(ledger, row))
    if ', ' in used:
        heads.append(('Hardware', ['']))
    body, notes = [], []
    for row in rows:
        cells, runs = [], _runs(ledger, row)
        for metric in metrics:
            note = row.get('misprints', {}).get(metric)
            if note:
                notes.append(note)
            by_head = _cells(ledger, row, metric, note and len(notes) or 0)
            cells += [by_head[head] for head in _subheads(ledger, metric)]
        states = Counter(run['status'] for run in runs)
        cells.append(Cell(
            f'{states["done"]} of {len(row["runs"])}' +
            ''.join(f', {states[s]} {s}' for s in ('failed', 'running')
                    if states[s]), 'seeds'))
        cells.append(Cell(_hardware(_done(ledger, row)), 'text'))
        body.append((row, cells[:sum(len(subs) for _, subs in heads)]))
    return dict(
        title=('Models of ' if ledger['data'] else '') +
        f'Table {rows[0]["table"]}: {TITLES[rows[0]["table"]]}',
        rows=rows, heads=heads, body=body, notes=notes, main=main,
        hours='hours' in metrics,
        how=f'{HOW}. Hardware: {used or "none yet"}.',
        readings=[text for row in rows
                  for text in _reading(ledger, row, main)])


def _subheads(ledger, metric):
    if ledger['data']:
        return ['ours'] if metric in COUNTS else ['ours', 'over baseline']
    if ledger['scale'] == 'demo':
        return ['ours', 'paper, full scale'][metric == 'epochs':]
    if metric == 'epochs':  # the schedule, nothing that is measured
        return ['paper']
    return ['paper', 'ours'] + ['diff.'] * (metric != 'hours')


def _cells(ledger, row, metric, note):
    """The cells of a row and a metric by their subheads."""
    printed, done = row['paper'].get(metric), _done(ledger, row)
    # Parameters and FLOPs are known before a run is done.
    values = _values(_runs(ledger, row) if metric in COUNTS[:2] else done,
                     metric)
    digits = len((printed or '').partition('.')[2]) or 2
    paper_cell = Cell(printed or '–', 'paper', '', note)
    ours, difference = Cell('–'), Cell('–', 'diff')
    if metric == 'hours':
        theirs, ratio = ('–' if r is None else f'×{r:.2f}'
                         for r in _ratios(ledger, row))
        if printed:
            paper_cell = Cell(theirs, 'paper', f'{printed} h', note)
        ours = Cell(ratio)
        if values:
            ours = Cell(ratio, 'ours', _duration(3600 * mean(values)))
    elif values:
        digits = digits if metric in COUNTS else 2
        spread = len(values) > 1 and metric not in COUNTS
        ours = Cell(
            _number(mean(values), digits), 'ours',
            f'±{_number(stdev(values), digits)}' if spread else '')
        against = [float(printed)] if printed else []
        if ledger['data']:
            base = _baseline(ledger, row)
            against = [] if base in (None, row) else _values(
                _done(ledger, base), metric)
        if against:
            difference = Cell(
                _number(mean(values) - mean(against), digits, '+'), 'diff')
    if not done and not values:
        states = {run['status'] for run in _runs(ledger, row)}
        ours = Cell('not run', 'state')
        if states & {'running', 'failed'}:
            ours = (Cell('running', 'state') if 'running' in states else
                    Cell('failed', 'failed'))
    return {'paper': paper_cell, 'ours': ours, 'diff.': difference,
            'over baseline': difference,
            'paper, full scale': paper_cell._replace(kind='muted')}


def _reading(ledger, row, metric):
    """What the seeds say of RA against the plain model, if row is RA's."""
    base = _baseline(ledger, row)
    if (metric is None or base in (None, row)
            or not re.match(r'\+?RA\b', row['name'])
            or (ledger['scale'] == 'demo' and not ledger['data'])):
        return
    of = [_values(_done(ledger, r), metric) for r in (base, row)]
    names = [r['name'] for r in (base, row)]
    if not all(of):
        yield f'{row["group"]}: no finished run of both to compare.'
        return
    text = (f'{row["group"]}, {_headings()[metric]}: {names[1]} − '
            f'{names[0]} = {_number(mean(of[1]) - mean(of[0]), 2, "+")}')
    printed = [r['paper'].get(metric) for r in (base, row)]
    if all(printed):
        theirs = float(printed[1]) - float(printed[0])
        text += f' (paper: {_number(theirs, 1, "+")})'
    ranges = ', '.join(f'{name} {min(v):.2f} to {max(v):.2f}'
                       for name, v in zip(names, of))
    if min(map(len, of)) < 2:
        yield f'{text}. One seed does not show what chance alone does.'
    elif max(map(min, of)) <= min(map(max, of)):
        yield (f'{text}: within the spread of the seeds, which overlap '
               f'({ranges}).')
    else:
        cases = math.comb(sum(map(len, of)), len(of[0])) // 2
        yield (f'{text}: beyond the spread of the seeds, which do not overlap '
               f'({ranges}); chance alone separates so few seeds in 1 case of '
               f'{cases}.')


def _failed(ledger):
    return [(name, run.get('error') or 'nothing in its log')
            for name, run in ledger['runs'].items()
            if run['status'] == 'failed']


def _again(folder):
    return f'python tools/reproduce.py report {folder}'


# Markdown


def _markdown(ledger, tables, folder):
    banner = _banner(ledger)
    warning = [f'**{banner}**', ''] if banner else []
    lines = [f'# {_md(_title(ledger))}', '', *warning]
    lines += [f'- {label}: {_md(value)}'
              for label, value in _facts(ledger).items()]
    lines += ['', 'With charts: [report.html](report.html)', '']
    for table in tables:
        heads = [''] + [f'{head}: {sub}' if sub else head
                        for head, subs in table['heads'] for sub in subs]
        lines += [f'## {_md(table["title"])}', '', *warning, _md(table['how']),
                  '', _md_row(heads), '|---' * len(heads) + '|']
        group = None
        for row, cells in table['body']:
            if row['group'] != group:
                group = row['group']
                lines.append(_md_row([group] + [''] * (len(heads) - 1)))
            texts = [f'{c.text} {c.small}' + f' ({c.note})' * bool(c.note)
                     for c in cells]
            lines.append(_md_row([row['name'], *texts]))
        lines += [''] + [f'({i}) {_md(note)}  '
                         for i, note in enumerate(table['notes'], 1)]
        lines += [''] + [f'- {_md(text)}' for text in table['readings']] + ['']
    for name, error in _failed(ledger):
        lines += [f'## Failed: {_md(name)}', '']
        lines += [f'    {line}' for line in error.splitlines()] + ['']
    return '\n'.join([*lines, '## This report again', '',
                      f'    {_again(folder)}', ''])


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
        charts = _html_charts(ledger, table, drawn)
        sections.append((table['title'], ''.join(
            [_html_table(table, banner), *readings, *charts])))
    sections += [
        ('Fig. 5: gates by channel and class', ''.join(_fig5(ledger, banner))),
        ('Failed runs',
         ''.join(f'<h3>{escape(name)}</h3><pre>{escape(error)}</pre>'
                 for name, error in _failed(ledger))),
        ('All runs', _html_runs(ledger)),
        ('This report again', '<p>From ledger.json alone, without training:'
         f'</p><pre>{escape(_again(folder))}</pre>')
    ]
    sections = [(f's{i}', *section) for i, section in enumerate(sections)
                if section[1]]
    return '\n'.join([
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>{banner}{": " * bool(banner)}{title}</title>',
        f'<style>{CSS}</style></head><body>',
        f'<div class="banner">{banner}</div>' * bool(banner),
        f'<h1>{title}</h1><dl>',
        *(f'<dt>{label}</dt><dd>{escape(value)}</dd>'
          for label, value in _facts(ledger).items()),
        '</dl><nav>',
        *(f'<a href="#{place}">{escape(head.partition(":")[0])}</a>'
          for place, head, _ in sections),
        '</nav>',
        *(f'<h2 id="{place}">{escape(head)}</h2>\n{text}'
          for place, head, text in sections),
        '</body></html>\n',
    ])


def _html_table(table, banner):
    heads, body, group = table['heads'], [], None
    firsts = np.cumsum([0] + [len(subs) for _, subs in heads])
    top = ''.join(f'<th class="first" colspan="{len(subs)}">{escape(head)}'
                  '</th>' for head, subs in heads)
    subs = ''.join(f'<th class="{"first" * (i == 0)}">{sub}</th>'
                   for _, subs in heads for i, sub in enumerate(subs))
    for row, cells in table['body']:
        if row['group'] != group:
            group = row['group']
            body.append(f'<tr class="group"><th colspan="{firsts[-1] + 1}">'
                        f'<span>{escape(group)}</span></th></tr>')
        body.append(f'<tr><th class="name">{escape(row["name"])}</th>')
        for i, cell in enumerate(cells):
            note = f'<sup>({cell.note})</sup>' * bool(cell.note)
            small = f'<small>{escape(cell.small)}</small>' * bool(cell.small)
            body.append(f'<td class="{cell.kind}{" first" * (i in firsts)}">'
                        f'{escape(cell.text)}{note}{small}</td>')
    notes = ''.join(f'<li>{escape(note)}</li>' for note in table['notes'])
    return ('<div class="wide"><table><caption>'
            f'<b class="demo">{banner}</b> {escape(table["how"])}</caption>'
            f'<thead><tr><th class="name"></th>{top}</tr><tr>'
            f'<th class="name"></th>{subs}</tr></thead><tbody>{"".join(body)}'
            f'</tbody></table></div><ol class="notes">{notes}</ol>')


def _html_runs(ledger):
    """What does not fit into the tables: memory, scaling, commands."""
    lines = []
    for name, run in ledger['runs'].items():
        memory, seconds = run.get('peak_memory_mb'), run.get('wall_s')
        status = run['status'].replace('waiting', 'not run')
        texts = (name, status, run.get('needs') or '–',
                 _duration(seconds) if seconds else '–',
                 f'{memory:.0f} MB' if memory else '–', _hardware([run]),
                 run.get('scaling') or '–')
        lines += ['<tr>', *(f'<td class="text">{escape(t)}' for t in texts)]
    heads = ('Run', 'Status', 'Starts from', 'Time', 'Peak memory', 'Hardware',
             'Scaled')
    commands = '\n'.join(run['command'] for run in ledger['runs'].values()
                         if run.get('command'))
    return ('<div class="wide"><table><thead><tr>' +
            ''.join(f'<th class="name">{head}' for head in heads) +
            f'</thead><tbody>{"".join(lines)}</tbody></table></div><details>'
            f'<summary>Commands</summary><pre>{escape(commands)}</pre>'
            '</details>') if lines else '<p>No row has been asked for.</p>'


# Charts


def _html_charts(ledger, table, drawn):
    """The charts of a table. What another table has shown is left out."""
    if table['hours']:
        yield _hours(ledger, table['rows'])
    keys = [('loss', 'Training loss'), ('temp', 'temp')]
    if table['main']:
        keys.insert(1, (f'val/{table["main"]}',
                        _headings()[table['main']]))
    for group, rows in groupby(table['rows'], lambda row: row['group']):
        rows, charts = list(rows), []
        for key, title in keys:
            this = (key, *(name for row in rows for name in row['runs']))
            if this not in drawn:
                drawn.add(this)
                charts.append(_curves(ledger, rows, key, title))
        for row in rows:
            run = next(filter(_stages, _runs(ledger, row)), None)
            if run and ('G', *row['runs']) not in drawn:
                drawn.add(('G', *row['runs']))
                charts.append(_gate_curves(run, row['name']))
        if any(charts):
            key = _key((row['name'] for row in rows), COLOURS)
            yield (f'<details open><summary>{escape(group)}</summary>{key}'
                   f'<div class="charts">{"".join(charts)}</div></details>')


def _key(names, colours):
    names = (f'<span><i style="color:{colours[i % len(colours)]}"></i>'
             f'{escape(name)}</span>' for i, name in enumerate(names))
    return f'<div class="key">{"".join(names)}</div>'


def _curve(run, key):
    """The finite points of a curve, of shape (n, 2)."""
    points = (run.get('curves') or {}).get(key) or []
    points = np.array(points, dtype=float).reshape(-1, 2)  # None is nan
    return points[np.isfinite(points).all(axis=1)]


def _curves(ledger, rows, key, title):
    """A curve of each row: the seeds thin, their mean over them."""
    lines = []
    for i, row in enumerate(rows):
        curves = [_curve(run, key) for run in _runs(ledger, row)]
        curves = [curve for curve in curves if len(curve)]
        colour = COLOURS[i % len(COLOURS)]
        if len(curves) > 1:
            lines += [(curve, colour, 0.6) for curve in curves]
            x = sorted(set.intersection(*(set(c[:, 0]) for c in curves)))
            y = np.mean([np.interp(x, *curve.T) for curve in curves], axis=0)
            curves = [np.stack([x, y], axis=1)] * bool(x)
        lines += [(curve, colour, 1.8) for curve in curves]
    return _chart(title, lines, key)


def _stages(run):
    """Stages of which the means of G have been logged, in order."""
    found = (re.fullmatch(r'G_(.+)_mean', key)
             for key in run.get('curves') or {})
    return sorted(m[1] for m in found if m and len(_curve(run, m[0])))


def _gate_curves(run, name):
    """Mean and standard deviation of G by stage, of one run."""
    lines, bands = [], []
    for i, stage in enumerate(_stages(run)):
        curve = _curve(run, f'G_{stage}_mean')
        lines.append((curve, STAGES[i % len(STAGES)], 1.8))
        std = _curve(run, f'G_{stage}_std')
        if len(std):
            std = np.interp(curve[:, 0], *std.T)[:, None] * [0, 1]
            band = np.concatenate([curve - std, (curve + std)[::-1]])
            bands.append((band, STAGES[i % len(STAGES)], 0))
    return _chart(f'{name}: G by stage, mean ± std, seed {run["seed"]}',
                  bands + lines, 'G', _key(_stages(run), STAGES))


def _chart(title, lines, key, legend=''):
    """Points of shape (n, 2), colour and width (0: filled) as a figure.

    SVG is written here and not by matplotlib, which takes 0.3 s a chart, of
    which a page has a hundred, and does not know dark mode.
    """
    if not lines:
        return ''
    points = np.concatenate([line[0] for line in lines])
    # A run that diverged would press the others' loss to the ground.
    log = key == 'loss' and 0 < 100 * points[:, 1].min() < points[:, 1].max()
    if log:
        lines = [(np.stack([p[:, 0], np.log10(p[:, 1])], axis=1), *style)
                 for p, *style in lines]
        points = np.concatenate([line[0] for line in lines])
    (left, right), (low, high) = (
        (a, b) if a < b else (a - 1, b + 1)
        for a, b in zip(points.min(axis=0), points.max(axis=0)))
    locator = MaxNLocator(4, steps=[1, 2, 5, 10], integer=log)
    ticks = locator.tick_values(low, high)
    low, high = ticks[0], ticks[-1]

    def at(x, y):
        return (48 + 330 * (x - left) / (right - left),
                192 - 184 * (y - low) / (high - low))

    parts = []
    for tick in ticks:
        y = at(0, tick)[1]
        label = f'{10**tick if log else tick:.6g}'
        parts.append(f'<path class="grid" d="M48 {y:.1f}H378"/><text x="43" '
                     f'y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in MaxNLocator(5, integer=True).tick_values(left, right):
        if left <= tick <= right:
            parts.append(f'<text x="{at(tick, 0)[0]:.1f}" y="207" '
                         f'text-anchor="middle">{tick:.7g}</text>')
    for curve, colour, width in lines:
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in zip(*at(*curve.T)))
        parts.append(
            f'<polyline points="{path}" stroke="{colour}" '
            f'stroke-width="{width}"/>' if width else
            f'<polygon points="{path}" fill="{colour}" opacity=".15"/>')
        if width > 1 and len(curve) < 15:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" '
                      f'fill="{colour}"/>' for x, y in zip(*at(*curve.T))]
    unit = 'epoch or iteration' if key.startswith('val/') else 'iteration'
    return (f'<figure><figcaption>{escape(title)}{legend}</figcaption>'
            f'<svg viewBox="0 0 400 224" role="img" '
            f'aria-label="{escape(title)}">{"".join(parts)}<text x="213" '
            f'y="221" text-anchor="middle">{unit}</text></svg></figure>')


def _hours(ledger, rows):
    """Bars of the ratios in the last column of Tables 2 and 3."""
    ratios = [_ratios(ledger, row) for row in rows]
    if not any(ours for _, ours in ratios):
        return ''
    if ledger['scale'] == 'demo':
        ratios = [(None, ours) for _, ours in ratios]
    unit = 75 / max(filter(None, sum(ratios, ())))
    lines = []
    for row, ratio in zip(rows, ratios):
        name = row['name']
        if not row['group'].startswith(name):
            name = f'{row["group"]} {name}'
        bars = ''.join(
            f'<div><i style="width:{r * unit:.1f}%;background:{colour}"></i>'
            f'{r:.2f}</div>' for r, colour in zip(ratio[::-1], COLOURS[3::-3])
            if r)
        lines.append(f'<tr><th>{escape(name)}</th><td>{bars or "–"}')
    names = ('ours', 'paper') if any(r for r, _ in ratios) else ('ours', )
    return ('<h3>Training hours against the plain baseline</h3>'
            '<p>By the clock, so with whatever else the machine did.</p>'
            f'{_key(names, COLOURS[3::-3])}<table class="bars">'
            f'{"".join(lines)}</table>')


def _fig5(ledger, banner):
    """Fig. 5 and the spread by depth, of the first seed of each row."""
    names = (next((name for name in row['runs']
                   if ledger['runs'].get(name, {}).get('gates')), None)
             for row in ledger['rows'])
    for name in filter(None, dict.fromkeys(names)):
        yield f'<h3>{escape(name)}</h3><b class="demo">{banner}</b>'
        for data in _pictures(json.dumps(ledger['runs'][name]['gates'])):
            yield (f'<figure><img alt="Gates of {escape(name)}" '
                   f'src="data:image/png;base64,{data}"></figure>')


@lru_cache(maxsize=32)  # two seconds each, and a report is written often
def _pictures(measured):
    pictures = []
    for draw in (gates.plot, gates.plot_spread):
        out = io.BytesIO()
        draw(json.loads(measured)).savefig(out, dpi=90)
        pictures.append(base64.b64encode(out.getvalue()).decode())
    return pictures
