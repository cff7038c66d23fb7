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


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    kind: str = 'ours'  # class in the HTML
    small: str = ''  # second line
    note: str = ''  # footnote


class GroupComparison(NamedTuple):
    """The rows of a group, compared with the first of them.

    Attributes:
        base: The baseline.
        values: Those of the metric that rows have, by name and seed.
        others: The other rows; None if not all rows with results have a common
            seed, or if this one has no results.
    """

    base: RequestedRow
    values: dict[str, dict[int, float]]
    others: list[tuple[RequestedRow, Comparison | None]]


@dataclass
class Table:
    """A table of the paper with our numbers.

    Attributes:
        columns: Headings, each with the subheadings of its columns.
        rows: Each row with its cells, a list for each heading.
        hardware: What has trained the finished runs.
        metric: The metric that is compared, if any was measured.
        comparisons: Of each group; none at demo scale, unless the data are the
            user's.
        readings: Sentences that say what the comparisons show.
    """

    columns: list[tuple[str, list[str]]]
    rows: list[tuple[RequestedRow, list[list[Cell]]]]
    hardware: str
    metric: str | None
    comparisons: list[GroupComparison]
    readings: list[str]


def make_table(ledger: Ledger, rows: list[RequestedRow]) -> Table:
    """Compute a table from its rows."""
    metrics = _select_metrics(ledger, rows)
    metric = next((m for m in metrics if m not in NOT_ACCURACY), None)
    columns = [(paper.metrics()[m], _subheadings(ledger, rows[0], m)) for m in metrics]
    body = []
    for row in rows:
        cells = [
            [CELLS[subheading](ledger, row, m) for subheading in subheadings]
            for m, (_, subheadings) in zip(metrics, columns)
        ]
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
    readings = [
        _read_comparison(group.base, row, metric, comparison)
        for group in comparisons
        for row, comparison in group.others
    ]
    return Table(columns, body, used, metric, comparisons, readings)


def _select_metrics(ledger, rows):
    """The metrics that the paper prints; without it, whatever was measured."""
    wanted = {metric for row in rows for metric in row.paper}
    if not _has_paper(ledger, rows[0]):
        wanted = {m for m in paper.metrics() for r in rows if _values(ledger, r, m)}
    return [metric for metric in paper.metrics() if metric in wanted]


def _has_paper(ledger, row):
    """Whether the paper prints numbers for a row as it was trained."""
    return not ledger.data and not isinstance(row.table, str)


def _values(ledger, row, metric):
    """The values of a metric in those runs of a row that have it."""
    entries = ledger.entries(row, None if metric in COUNTED else 'done')
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


def _subheadings(ledger, row, metric):
    ours = [] if metric == 'epochs' else ['ours']  # a part of the schedule
    if not _has_paper(ledger, row):
        return ours if metric in NOT_ACCURACY else ['ours', 'over baseline']
    if ledger.scale == 'demo':
        return [*ours, 'paper, full scale']
    return ['paper', *ours, *([] if metric in ('hours', 'epochs') else ['diff.'])]


def _paper_cell(ledger, row, metric):
    """The paper's number; hours in relation to the baseline's."""
    text, small = row.paper.get(metric, '–'), ''
    base = _find_baseline(ledger, row)
    if metric == 'hours' and metric in row.paper:
        hours = [float(r.paper.get(metric, 'nan')) for r in (row, base) if r]
        text, small = _ratio(hours), f'{text} h'
    return Cell(text, 'paper', small, row.misprints.get(metric, ''))


def _our_cell(ledger, row, metric):
    """Our value with its spread, or why there is none.

    The ratio of hours is that of the medians over the seeds, so that a single run
    that was slowed down by something else does not count.
    """
    values = _values(ledger, row, metric)
    if not values:
        states = {entry.status for entry in ledger.entries(row)}
        if 'done' in states:
            return Cell('–')
        if 'running' in states:
            return Cell('running', 'state')
        return Cell('failed', 'failed') if 'failed' in states else NOT_RUN
    if metric == 'hours':
        rows = [r for r in (row, _find_baseline(ledger, row)) if r]
        machines = {describe_hardware(ledger.entries(r, 'done')) for r in rows}
        hours = [_values(ledger, r, metric) for r in rows]
        medians = [median(h) for h in hours if h and len(machines) == 1]
        return Cell(_ratio(medians), small=format_duration(3600 * median(values)))
    digits = _digits(row, metric, values)
    has_spread = metric not in NOT_ACCURACY and len(values) > 1
    spread = f'±{_format(stdev(values), digits)}' if has_spread else ''
    return Cell(_format(mean(values), digits), small=spread)


def _difference_cell(ledger, row, metric):
    """Our value minus the paper's or, where it has none, minus the baseline's."""
    values, reference = _values(ledger, row, metric), []
    base = _find_baseline(ledger, row)
    if metric in row.paper:
        reference = [float(row.paper[metric])]
    elif not _has_paper(ledger, row) and base not in (None, row):
        reference = _values(ledger, base, metric)
    if not values or not reference:
        return Cell('–', 'diff')
    digits = _digits(row, metric, values)
    return Cell(_format(mean(values) - mean(reference), digits, '+'), 'diff')


def _muted_paper_cell(*args):
    return _paper_cell(*args)._replace(kind='muted')


NOT_RUN = Cell('not run', 'state')
CELLS = {
    'paper': _paper_cell,
    'ours': _our_cell,
    'diff.': _difference_cell,
    'over baseline': _difference_cell,
    'paper, full scale': _muted_paper_cell,
}


def _ratio(values):
    """Format a ratio, unless one of the two numbers is unknown."""
    if len(values) < 2 or math.isnan(sum(values)):
        return '–'
    return f'×{values[0] / values[1]:.2f}'


def _digits(row, metric, values):
    if metric not in NOT_ACCURACY:
        return 2
    digits = len(row.paper.get(metric, '').partition('.')[2]) or 2
    if 0 < mean(values) < 1:  # show two significant digits of a tiny model
        digits = max(digits, 1 - math.floor(math.log10(mean(values))))
    return digits


def _format(value, digits, sign=''):
    value = round(value, digits) + 0.0  # avoids -0.0
    return f'{value:{sign}.{digits}f}'.replace('-', '−')


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
        named = {r.name: _values_by_seed(ledger, r, metric) for r in (base, *group)}
        values = {name: found for name, found in named.items() if found}
        found = compare(values, base.name) if base.name in values else {}
        others = [(row, found.get(row.name)) for row in group if row is not base]
        comparisons.append(GroupComparison(base, values, others))
    return comparisons


def _values_by_seed(ledger, row, metric):
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
