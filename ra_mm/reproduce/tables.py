"""Computes the cells of the report's tables and the sentences below them."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from statistics import mean, median, stdev
from typing import NamedTuple

from ra_mm.reproduce import paper

from .comparison import Comparison, compare
from .progress import format_duration

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
    'beyond_imagenet': 'Beyond the paper: classification',
    'beyond_coco': 'Beyond the paper: object detection',
}
COUNTED = ('params', 'flops')  # known before a run is done
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


@dataclass
class Table:
    """A table of the paper with our numbers.

    Attributes:
        title: Number and subject.
        rows: Its rows in the ledger.
        columns: Headings, each with the subheadings of its columns.
        cells: A list for each row.
        notes: Footnotes.
        caption: What the numbers are, and the hardware.
        readings: Sentences that compare the models with the baselines.
        main_metric: Metric whose curves are drawn.
        has_hours: Whether the table compares training hours.
    """

    title: str
    rows: list[dict]
    columns: list[tuple[str, list[str]]]
    cells: list[list[Cell]]
    notes: list[str]
    caption: str
    readings: list[str]
    main_metric: str | None
    has_hours: bool


def make_table(ledger: dict, rows: list[dict]) -> Table:
    """Compute a table from its rows in the ledger."""
    wanted = {metric for row in rows for metric in row['paper']}
    has_paper = _has_paper(ledger, rows[0])
    if not has_paper:  # compare whatever was measured
        runs = [run for row in rows for run in done_runs(ledger, row)]
        wanted = {metric for metric in headings() if _values(runs, metric)}
    metrics = [metric for metric in headings() if metric in wanted]
    main_metric = next((m for m in metrics if m not in NOT_ACCURACY), None)
    subheadings = {m: _subheadings(ledger, m, has_paper) for m in metrics}
    columns = [(headings()[m], subheadings[m]) for m in metrics]
    columns.append(('Seeds', ['done']))
    used = hardware(run for row in rows for run in done_runs(ledger, row))
    has_several_machines = ', ' in used
    if has_several_machines:
        columns.append(('Hardware', ['']))

    all_cells, notes = [], []
    for row in rows:
        cells = []
        for metric in metrics:
            note = row.get('misprints', {}).get(metric)
            if note:
                notes.append(note)
            number = len(notes) if note else 0
            by_subheading = _metric_cells(ledger, row, metric, number)
            cells += [by_subheading[s] for s in subheadings[metric]]
        cells.append(_seeds_cell(ledger, row))
        if has_several_machines:
            cells.append(Cell(hardware(done_runs(ledger, row)), 'text'))
        all_cells.append(cells)

    number = rows[0]['table']
    title = TITLES[number]
    if not isinstance(number, str):
        title = f'{"Models of " if ledger["data"] else ""}Table {number}: {title}'
    return Table(
        title=title,
        rows=rows,
        columns=columns,
        cells=all_cells,
        notes=notes,
        caption=f'{CAPTION}{used or "none yet"}.',
        readings=list(_readings(ledger, rows, main_metric)),
        main_metric=main_metric,
        has_hours='hours' in metrics,
    )


def hardware(runs: Iterable[dict]) -> str:
    """The different machines that trained these runs."""
    used = {tuple(run['hardware'].values()) for run in runs if run.get('hardware')}
    return ', '.join(sorted(f'{count} × {name}' for name, count in used))


def runs_of(ledger: dict, row: dict) -> list[dict]:
    """The runs of a row that are in the ledger."""
    return [ledger['runs'][n] for n in row['runs'] if n in ledger['runs']]


def done_runs(ledger: dict, row: dict) -> list[dict]:
    return [run for run in runs_of(ledger, row) if run['status'] == 'done']


@lru_cache
def headings() -> dict[str, str]:
    """The column headings by metric."""
    return paper.metrics()


def hours_ratios(ledger: dict, row: dict) -> tuple[float | None, float | None]:
    """Training hours relative to the baseline: the paper's and ours, or None.

    Ours is the ratio of the medians over the seeds, so that a single run that
    was slowed down by something else does not count.
    """
    base = _baseline(ledger, row)
    if base is None:
        return None, None
    printed = [float(r['paper'].get('hours', 'nan')) for r in (row, base)]
    runs = [done_runs(ledger, r) for r in (row, base)]
    hours = [_values(r, 'hours') for r in runs]
    is_comparable = all(hours) and hardware(runs[0]) == hardware(runs[1])
    return (
        None if math.isnan(sum(printed)) else printed[0] / printed[1],
        median(hours[0]) / median(hours[1]) if is_comparable else None,
    )


def _values(runs, metric):
    """The values of a metric in those runs that have it."""
    if metric == 'hours':
        values = [(run.get('wall_s') or math.nan) / 3600 for run in runs]
    elif metric in NOT_ACCURACY:
        values = [run.get(metric) for run in runs]
    else:
        values = [(run.get('metrics') or {}).get(metric) for run in runs]
    return [v for v in values if v is not None and math.isfinite(v)]


@lru_cache
def _baseline_names():
    """The name of the first row of each group."""
    rows = [*paper.rows(), *paper.beyond_rows()]
    return {(row.table, row.group): row.name for row in rows[::-1]}


def _baseline(ledger, row):
    """The row that this row is compared with; None if it was not requested."""
    group = row['table'], row['group']
    for other in ledger['rows']:
        if (*group, _baseline_names().get(group)) == (
            other['table'],
            other['group'],
            other['name'],
        ):
            return other
    return None


def _format(value, digits, sign=''):
    value = round(value, digits) + 0.0  # avoids -0.0
    return f'{value:{sign}.{digits}f}'.replace('-', '−')


def _has_paper(ledger, row):
    """Whether the paper prints numbers for a row as it was trained."""
    return not ledger['data'] and not isinstance(row['table'], str)


def _subheadings(ledger, metric, has_paper):
    if not has_paper:
        return ['ours'] if metric in NOT_ACCURACY else ['ours', 'over baseline']
    if ledger['scale'] == 'demo':
        return (
            ['paper, full scale']
            if metric == 'epochs'
            else ['ours', 'paper, full scale']
        )
    if metric == 'epochs':  # part of the schedule, not measured
        return ['paper']
    return ['paper', 'ours'] if metric == 'hours' else ['paper', 'ours', 'diff.']


def _metric_cells(ledger, row, metric, note):
    """The cells of one row and metric, by subheading."""
    printed = row['paper'].get(metric)
    if metric == 'hours':
        paper_cell, ours = _hours_cells(ledger, row, note)
        difference = Cell('–', 'diff')
    else:
        paper_cell = Cell(printed or '–', 'paper', '', note)
        ours, difference = _value_cells(ledger, row, metric, printed)
    return {
        'paper': paper_cell,
        'ours': ours,
        'diff.': difference,
        'over baseline': difference,
        'paper, full scale': paper_cell._replace(kind='muted'),
    }


def _hours_cells(ledger, row, note):
    texts = ['–' if r is None else f'×{r:.2f}' for r in hours_ratios(ledger, row)]
    printed = row['paper'].get('hours')
    paper_cell = Cell('–', 'paper', '', note)
    if printed:
        paper_cell = Cell(texts[0], 'paper', f'{printed} h', note)
    hours = _values(done_runs(ledger, row), 'hours')
    if not hours:
        return paper_cell, _status_cell(ledger, row)
    return paper_cell, Cell(texts[1], 'ours', format_duration(3600 * median(hours)))


def _value_cells(ledger, row, metric, printed):
    """Our value, and its difference to the paper or to the baseline."""
    runs = runs_of if metric in COUNTED else done_runs
    values = _values(runs(ledger, row), metric)
    if not values:
        return _status_cell(ledger, row), Cell('–', 'diff')
    digits, spread = 2, ''
    if metric in NOT_ACCURACY:
        digits = len((printed or '').partition('.')[2]) or 2
        if 0 < mean(values) < 1:  # show two significant digits of a tiny model
            digits = max(digits, 1 - math.floor(math.log10(mean(values))))
    elif len(values) > 1:
        spread = f'±{_format(stdev(values), digits)}'
    reference = [float(printed)] if printed else []
    if not _has_paper(ledger, row):
        base = _baseline(ledger, row)
        is_comparable = base not in (None, row)
        reference = _values(done_runs(ledger, base), metric) if is_comparable else []
    difference = '–'
    if reference:
        difference = _format(mean(values) - mean(reference), digits, '+')
    ours = Cell(_format(mean(values), digits), 'ours', spread)
    return ours, Cell(difference, 'diff')


def _status_cell(ledger, row):
    """What to show without a value."""
    states = {run['status'] for run in runs_of(ledger, row)}
    if 'done' in states:
        return Cell('–')
    if 'running' in states:
        return Cell('running', 'state')
    return Cell('failed', 'failed') if 'failed' in states else Cell('not run', 'state')


def _seeds_cell(ledger, row):
    states = Counter(run['status'] for run in runs_of(ledger, row))
    others = (f', {states[s]} {s}' for s in ('failed', 'running') if states[s])
    return Cell(f'{states["done"]} of {len(row["runs"])}{"".join(others)}', 'seeds')


def _readings(ledger, rows, metric) -> Iterator[str]:
    """What the seeds say about each model and the plain one of its group."""
    if metric is None or (ledger['scale'] == 'demo' and not ledger['data']):
        return
    for base, compared in compare_groups(ledger, rows, metric):
        for row, comparison in compared:
            text = f'{row["group"]}, {headings()[metric]}: '
            if comparison is None:
                yield f'{text}{row["name"]} and {base["name"]} share no finished seed.'
                continue
            difference = _format(comparison.differences.mean(), 2, '+')
            text += f'{row["name"]} − {base["name"]} = {difference}'
            printed = [r['paper'].get(metric) for r in (base, row)]
            if all(printed):
                difference = float(printed[1]) - float(printed[0])
                text += f' (paper: {_format(difference, 1, "+")})'
            yield f'{text}. {comparison.describe()}'


def compare_groups(
    ledger: dict, rows: list[dict], metric: str
) -> Iterator[tuple[dict, list[tuple[dict, Comparison | None]]]]:
    """Compare the rows of each group with its baseline.

    Yields:
        The baseline, and each other row with its comparison: None if not all
        rows with results have a common seed, or if this one has no results.
    """
    for _, group in groupby(rows, lambda row: row['group']):
        group = list(group)
        base = _baseline(ledger, group[0])
        if base is None:
            continue
        values = {
            row['name']: values
            for row in (base, *group)
            if (values := values_by_seed(ledger, row, metric))
        }
        comparisons = compare(values, base['name']) if base['name'] in values else {}
        yield (
            base,
            [(row, comparisons.get(row['name'])) for row in group if row is not base],
        )


def values_by_seed(ledger: dict, row: dict, metric: str) -> dict[int, float]:
    """The values of a metric in the finished runs of a row."""
    return {
        run['seed']: value
        for run in done_runs(ledger, row)
        for value in _values([run], metric)
    }
