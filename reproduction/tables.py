"""Compute the tables of the report: the paper's numbers, ours, and what they show."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, median, stdev
from typing import NamedTuple

from . import paper
from .comparison import Comparison, compare
from .ledger import COUNTED, Entry, Ledger, RequestedRow, format_duration

NOT_ACCURACY = (*COUNTED, 'hours', 'epochs')
CAPTION = (
    'ours: mean over the finished seeds (hours: median); ±: sample standard '
    'deviation, none for one seed. Hardware: '
)


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    kind: str = 'ours'  # class in the HTML
    small: str = ''  # second line
    note: int = 0  # number of the footnote


class GroupComparison(NamedTuple):
    """The rows of a group, compared with the first of them.

    Attributes:
        base: The baseline.
        others: The other rows; None if not all rows with results have a common
            seed, or if this one has no results.
    """

    base: RequestedRow
    others: list[tuple[RequestedRow, Comparison | None]]


@dataclass
class Table:
    """A table of the paper with our numbers.

    Attributes:
        title: Number and subject.
        columns: Headings, each with the subheadings of its columns.
        rows: Each row with its cells, a list for each heading.
        notes: Footnotes.
        caption: What the numbers are, and the hardware.
        metric: The metric that is compared, if any was measured.
        comparisons: Of each group; none at demo scale, unless the data are the
            user's.
        readings: Sentences that say what the comparisons show.
    """

    title: str
    columns: list[tuple[str, list[str]]]
    rows: list[tuple[RequestedRow, list[list[Cell]]]]
    notes: list[str]
    caption: str
    metric: str | None
    comparisons: list[GroupComparison]
    readings: list[str]


def make_table(ledger: Ledger, rows: list[RequestedRow]) -> Table:
    """Compute a table from its rows."""
    metrics = _select_metrics(ledger, rows)
    metric = next((m for m in metrics if m not in NOT_ACCURACY), None)
    misprints = [(row.key, m) for row in rows for m in metrics if m in row.misprints]
    columns = [(paper.metrics()[m], _subheadings(ledger, rows[0], m)) for m in metrics]
    body = []
    for row in rows:
        cells = []
        for m, (_, subheadings) in zip(metrics, columns):
            key = row.key, m
            note = misprints.index(key) + 1 if key in misprints else 0
            by_subheading = _metric_cells(ledger, row, m, note)
            cells.append([by_subheading[s] for s in subheadings])
        body.append((row, [*cells, [_seeds_cell(ledger, row)]]))
    columns.append(('Seeds', ['done']))
    used = describe_hardware(e for row in rows for e in ledger.entries(row, 'done'))
    if ', ' in used:
        columns.append(('Hardware', ['']))
        for row, cells in body:
            text = describe_hardware(ledger.entries(row, 'done'))
            cells.append([Cell(text, 'text')])

    comparisons = []
    if metric and (ledger.scale != 'demo' or ledger.data):
        comparisons = _compare_groups(ledger, rows, metric)
    return Table(
        title=_make_title(ledger, rows[0].table),
        columns=columns,
        rows=body,
        notes=[row.misprints[m] for row in rows for m in metrics if m in row.misprints],
        caption=f'{CAPTION}{used or "none yet"}.',
        metric=metric,
        comparisons=comparisons,
        readings=[
            _read_comparison(group.base, row, metric, comparison)
            for group in comparisons
            for row, comparison in group.others
        ],
    )


def _make_title(ledger, table):
    title = paper.titles()[str(table)]
    if isinstance(table, str):
        return title
    return f'{"Models of " if ledger.data else ""}Table {table}: {title}'


def _select_metrics(ledger, rows):
    """The metrics that the paper prints; without it, whatever was measured."""
    wanted = {metric for row in rows for metric in row.paper}
    if not _has_paper(ledger, rows[0]):
        entries = [entry for row in rows for entry in ledger.entries(row, 'done')]
        wanted = {metric for metric in paper.metrics() if _values(entries, metric)}
    return [metric for metric in paper.metrics() if metric in wanted]


def _has_paper(ledger, row):
    """Whether the paper prints numbers for a row as it was trained."""
    return not ledger.data and not isinstance(row.table, str)


def _values(entries, metric):
    """The values of a metric in those entries that have it."""
    return [v for entry in entries if (v := entry.value(metric)) is not None]


def describe_hardware(entries: Iterable[Entry]) -> str:
    """The different machines that trained these runs."""
    used = {tuple(entry.hardware.values()) for entry in entries if entry.hardware}
    return ', '.join(sorted(f'{count} × {name}' for name, count in used))


def _find_baseline(ledger: Ledger, row: RequestedRow) -> RequestedRow | None:
    """The row that this row is compared with; None if it was not requested."""
    group = row.table, row.group
    key = (*group, paper.baseline_names().get(group))
    return next((other for other in ledger.rows if other.key == key), None)


def _hours_ratios(
    ledger: Ledger, row: RequestedRow
) -> tuple[float | None, float | None]:
    """Training hours relative to the baseline: the paper's and ours, or None.

    Ours is the ratio of the medians over the seeds, so that a single run that
    was slowed down by something else does not count.
    """
    base = _find_baseline(ledger, row)
    if base is None:
        return None, None
    printed = [float(r.paper.get('hours', 'nan')) for r in (row, base)]
    entries = [ledger.entries(r, 'done') for r in (row, base)]
    hours = [_values(e, 'hours') for e in entries]
    is_comparable = all(hours) and len({*map(describe_hardware, entries)}) == 1
    return (
        None if math.isnan(sum(printed)) else printed[0] / printed[1],
        median(hours[0]) / median(hours[1]) if is_comparable else None,
    )


def _subheadings(ledger, row, metric):
    ours = [] if metric == 'epochs' else ['ours']  # a part of the schedule
    if not _has_paper(ledger, row):
        return ours if metric in NOT_ACCURACY else ['ours', 'over baseline']
    if ledger.scale == 'demo':
        return [*ours, 'paper, full scale']
    return ['paper', *ours, *([] if metric in ('hours', 'epochs') else ['diff.'])]


def _metric_cells(ledger, row, metric, note):
    """The cells of one row and metric, by subheading."""
    printed = row.paper.get(metric)
    paper_cell, difference = Cell(printed or '–', 'paper', '', note), Cell('–', 'diff')
    if metric == 'hours':
        theirs, own = (f'×{r:.2f}' if r else '–' for r in _hours_ratios(ledger, row))
        if printed:
            paper_cell = Cell(theirs, 'paper', f'{printed} h', note)
        hours = _values(ledger.entries(row, 'done'), metric)
        ours = hours and Cell(own, 'ours', format_duration(3600 * median(hours)))
    else:
        ours, difference = _value_cells(ledger, row, metric, printed)
    return {
        'paper': paper_cell,
        'ours': ours or _status_cell(ledger, row),
        'diff.': difference,
        'over baseline': difference,
        'paper, full scale': paper_cell._replace(kind='muted'),
    }


def _value_cells(ledger, row, metric, printed):
    """Our value, if any, and its difference to the paper or to the baseline."""
    values = _values(ledger.entries(row, None if metric in COUNTED else 'done'), metric)
    if not values:
        return None, Cell('–', 'diff')
    digits, spread = 2, ''
    if metric in NOT_ACCURACY:
        digits = len((printed or '').partition('.')[2]) or 2
        if 0 < mean(values) < 1:  # show two significant digits of a tiny model
            digits = max(digits, 1 - math.floor(math.log10(mean(values))))
    elif len(values) > 1:
        spread = f'±{_format(stdev(values), digits)}'
    reference = [float(printed)] if printed else []
    base = _find_baseline(ledger, row)
    if not _has_paper(ledger, row) and base not in (None, row):
        reference = _values(ledger.entries(base, 'done'), metric)
    difference = '–'
    if reference:
        difference = _format(mean(values) - mean(reference), digits, '+')
    ours = Cell(_format(mean(values), digits), 'ours', spread)
    return ours, Cell(difference, 'diff')


def _format(value, digits, sign=''):
    value = round(value, digits) + 0.0  # avoids -0.0
    return f'{value:{sign}.{digits}f}'.replace('-', '−')


def _status_cell(ledger, row):
    """What to show without a value."""
    states = {entry.status for entry in ledger.entries(row)}
    if 'done' in states:
        return Cell('–')
    if 'running' in states:
        return Cell('running', 'state')
    return Cell('failed', 'failed') if 'failed' in states else Cell('not run', 'state')


def _seeds_cell(ledger, row):
    states = Counter(entry.status for entry in ledger.entries(row))
    others = (f', {states[s]} {s}' for s in ('failed', 'running') if states[s])
    return Cell(f'{states["done"]} of {len(row.runs)}{"".join(others)}', 'seeds')


def _compare_groups(ledger, rows, metric):
    """Compare the rows of each group that has its baseline."""
    comparisons = []
    for _, rows_of_group in groupby(rows, lambda row: row.group):
        group = list(rows_of_group)
        base = _find_baseline(ledger, group[0])
        if base is None:
            continue
        values = {
            row.name: values
            for row in (base, *group)
            if (values := values_by_seed(ledger, row, metric))
        }
        found = compare(values, base.name) if base.name in values else {}
        others = [(row, found.get(row.name)) for row in group if row is not base]
        comparisons.append(GroupComparison(base, others))
    return comparisons


def values_by_seed(ledger: Ledger, row: RequestedRow, metric: str) -> dict[int, float]:
    """The values of a metric in the finished runs of a row."""
    entries = ledger.entries(row, 'done')
    return {e.seed: v for e in entries if (v := e.value(metric)) is not None}


def _read_comparison(base, row, metric, comparison):
    """Say what the seeds show about a model and the plain one of its group."""
    text = f'{row.group}, {paper.metrics()[metric]}: '
    if comparison is None:
        return f'{text}{row.name} and {base.name} share no finished seed.'
    difference = _format(comparison.differences.mean(), 2, '+')
    text += f'{row.name} − {base.name} = {difference}'
    printed = [r.paper.get(metric) for r in (base, row)]
    if all(printed):
        difference = float(printed[1]) - float(printed[0])
        text += f' (paper: {_format(difference, 1, "+")})'
    return f'{text}. {comparison.describe()}'
