"""What a ledger says of the rows of a table, in cells."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from statistics import mean, median, stdev
from typing import NamedTuple

from ra_mm.reproduce import paper

TITLES = {
    2: 'ResNet',
    3: 'MobileNetV2',
    4: 'Object detection',
    5: 'Instance and semantic segmentation',
    6: 'Feature aggregation',
    7: 'Feature normalisation',
    8: 'Activation function',
    9: 'Temperature annealing',
    10: 'Training epochs',
}
COUNTS = ('params', 'flops', 'hours', 'epochs')  # what is no accuracy
HOW = (
    'ours: mean over the seeds that are done (hours: median); ±: their '
    'sample standard deviation, none for one seed'
)


class Cell(NamedTuple):
    """A cell of a table, for both forms of the report."""

    text: str
    kind: str = 'ours'  # its class in the HTML
    small: str = ''  # second line
    note: int = 0  # number of its footnote


def duration(seconds: float) -> str:
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'


def hardware(runs: Iterable[dict]) -> str:
    used = {tuple(run['hardware'].values()) for run in runs if run.get('hardware')}
    return ', '.join(sorted(f'{count} × {name}' for name, count in used))


def runs_of_row(ledger: dict, row: dict) -> list[dict]:
    """The runs of a row that are in the ledger."""
    return [ledger['runs'][n] for n in row['runs'] if n in ledger['runs']]


def _done(ledger, row):
    return [run for run in runs_of_row(ledger, row) if run['status'] == 'done']


def _values(runs, metric):
    """The metric of those runs that have it."""
    if metric == 'hours':
        values = [(run.get('wall_s') or math.nan) / 3600 for run in runs]
    elif metric in COUNTS:
        values = [run.get(metric) for run in runs]
    else:
        values = [(run.get('metrics') or {}).get(metric) for run in runs]
    return [v for v in values if v is not None and math.isfinite(v)]


headings = lru_cache()(paper.metrics)  # reads a file


@lru_cache
def _baselines():
    """The first row of each group, which may be missing in a ledger."""
    return {(row.table, row.group): row.name for row in paper.rows()[::-1]}


def _baseline(ledger, row):
    """What the row is compared with, None if that has not been asked for."""
    group = [
        r
        for r in ledger['rows']
        if (r['table'], r['group']) == (row['table'], row['group'])
    ]
    name = _baselines().get((row['table'], row['group']))
    return next((r for r in group if r['name'] == name), None)


def hours_ratios(ledger: dict, row: dict) -> tuple[float | None, float | None]:
    """Hours against the baseline's, the paper's and ours, or None.

    Ours are medians of the seeds: a run that something else held up does not
    count.
    """
    base = _baseline(ledger, row)
    if base is None:
        return None, None
    theirs = [float(r['paper'].get('hours', 'nan')) for r in (row, base)]
    runs = [_done(ledger, r) for r in (row, base)]
    ours = [_values(r, 'hours') for r in runs]
    same = hardware(runs[0]) == hardware(runs[1])
    return (
        None if math.isnan(sum(theirs)) else theirs[0] / theirs[1],
        median(ours[0]) / median(ours[1]) if all(ours) and same else None,
    )


def _number(value, digits, sign=''):
    value = round(value, digits) + 0.0  # no -0.0
    return f'{value:{sign}.{digits}f}'.replace('-', '−')


def make_table(ledger: dict, rows: list[dict]) -> dict:
    """A table in cells, which both forms of the report show."""
    has = {metric for row in rows for metric in row['paper']}
    if ledger['data']:
        runs = [run for row in rows for run in _done(ledger, row)]
        has = {metric for metric in headings() if _values(runs, metric)}
    metrics = {m: head for m, head in headings().items() if m in has}
    main = next((m for m in metrics if m not in COUNTS), None)
    heads = [(head, _subheads(ledger, m)) for m, head in metrics.items()]
    heads.append(('Seeds', ['done']))
    used = hardware(run for row in rows for run in _done(ledger, row))
    if ', ' in used:
        heads.append(('Hardware', ['']))
    body, notes = [], []
    for row in rows:
        cells, runs = [], runs_of_row(ledger, row)
        for metric in metrics:
            note = row.get('misprints', {}).get(metric)
            if note:
                notes.append(note)
            by_head = _cells(ledger, row, metric, note and len(notes) or 0)
            cells += [by_head[head] for head in _subheads(ledger, metric)]
        states = Counter(run['status'] for run in runs)
        cells.append(
            Cell(
                f'{states["done"]} of {len(row["runs"])}'
                + ''.join(
                    f', {states[s]} {s}' for s in ('failed', 'running') if states[s]
                ),
                'seeds',
            )
        )
        cells.append(Cell(hardware(_done(ledger, row)), 'text'))
        body.append((row, cells[: sum(len(subs) for _, subs in heads)]))
    return dict(
        title=('Models of ' if ledger['data'] else '')
        + f'Table {rows[0]["table"]}: {TITLES[rows[0]["table"]]}',
        rows=rows,
        heads=heads,
        body=body,
        notes=notes,
        main=main,
        hours='hours' in metrics,
        how=f'{HOW}. Hardware: {used or "none yet"}.',
        readings=[text for row in rows for text in _reading(ledger, row, main)],
    )


def _subheads(ledger, metric):
    if ledger['data']:
        return ['ours'] if metric in COUNTS else ['ours', 'over baseline']
    if ledger['scale'] == 'demo':
        return ['ours', 'paper, full scale'][metric == 'epochs' :]
    if metric == 'epochs':  # the schedule, nothing that is measured
        return ['paper']
    return ['paper', 'ours'] + ['diff.'] * (metric != 'hours')


def _cells(ledger, row, metric, note):
    """The cells of a row and a metric by their subheads."""
    printed, done = row['paper'].get(metric), _done(ledger, row)
    # Parameters and FLOPs are known before a run is done.
    values = _values(runs_of_row(ledger, row) if metric in COUNTS[:2] else done, metric)
    digits = len((printed or '').partition('.')[2]) or 2
    paper_cell = Cell(printed or '–', 'paper', '', note)
    ours, difference = Cell('–'), Cell('–', 'diff')
    if metric == 'hours':
        theirs, ratio = (
            '–' if r is None else f'×{r:.2f}' for r in hours_ratios(ledger, row)
        )
        if printed:
            paper_cell = Cell(theirs, 'paper', f'{printed} h', note)
        ours = Cell(ratio)
        if values:
            ours = Cell(ratio, 'ours', duration(3600 * median(values)))
    elif values:
        digits = digits if metric in COUNTS else 2
        if 0 < mean(values) < 1 and metric in COUNTS:  # of a tiny model
            digits = max(digits, 1 - math.floor(math.log10(mean(values))))
        spread = len(values) > 1 and metric not in COUNTS
        ours = Cell(
            _number(mean(values), digits),
            'ours',
            f'±{_number(stdev(values), digits)}' if spread else '',
        )
        against = [float(printed)] if printed else []
        if ledger['data']:
            base = _baseline(ledger, row)
            against = (
                [] if base in (None, row) else _values(_done(ledger, base), metric)
            )
        if against:
            difference = Cell(
                _number(mean(values) - mean(against), digits, '+'), 'diff'
            )
    if not done and not values:
        states = {run['status'] for run in runs_of_row(ledger, row)}
        ours = Cell('not run', 'state')
        if states & {'running', 'failed'}:
            ours = (
                Cell('running', 'state')
                if 'running' in states
                else Cell('failed', 'failed')
            )
    return {
        'paper': paper_cell,
        'ours': ours,
        'diff.': difference,
        'over baseline': difference,
        'paper, full scale': paper_cell._replace(kind='muted'),
    }


def _reading(ledger, row, metric):
    """What the seeds say of RA against the plain model, if row is RA's."""
    base = _baseline(ledger, row)
    if (
        metric is None
        or base in (None, row)
        or not re.match(r'\+?RA\b', row['name'])
        or (ledger['scale'] == 'demo' and not ledger['data'])
    ):
        return
    of = [_values(_done(ledger, r), metric) for r in (base, row)]
    names = [r['name'] for r in (base, row)]
    if not all(of):
        yield f'{row["group"]}: no finished run of both to compare.'
        return
    text = (
        f'{row["group"]}, {headings()[metric]}: {names[1]} − '
        f'{names[0]} = {_number(mean(of[1]) - mean(of[0]), 2, "+")}'
    )
    printed = [r['paper'].get(metric) for r in (base, row)]
    if all(printed):
        theirs = float(printed[1]) - float(printed[0])
        text += f' (paper: {_number(theirs, 1, "+")})'
    ranges = ', '.join(
        f'{name} {min(v):.2f} to {max(v):.2f}' for name, v in zip(names, of)
    )
    if min(map(len, of)) < 2:
        yield f'{text}. One seed does not show what chance alone does.'
    elif max(map(min, of)) <= min(map(max, of)):
        yield (f'{text}: within the spread of the seeds, which overlap ({ranges}).')
    else:
        cases = math.comb(sum(map(len, of)), len(of[0])) // 2
        yield (
            f'{text}: beyond the spread of the seeds, which do not overlap '
            f'({ranges}); chance alone separates so few seeds in 1 case of '
            f'{cases}.'
        )
