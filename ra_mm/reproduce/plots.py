"""Draws the charts of a report with matplotlib, as images within HTML."""

import base64
import io
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from itertools import groupby
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ra_mm.analysis import gates

from .comparison import Comparison
from .tables import (
    Table,
    compare_groups,
    headings,
    hours_ratios,
    runs_of,
    values_by_seed,
)

COLORS = ('#8a8f98', '#3f8fd9', '#d98a1f', '#d9485f', '#3fa66b', '#9a6fd0', '#1fa3a8')
STAGE_COLORS = matplotlib.colormaps['plasma'](np.linspace(0.05, 0.85, 5))
PANEL_SIZE = 3.15, 2.5  # inches
MAX_COLUMNS = 4
MAX_MARKED_POINTS = 15
# Names come from the user; matplotlib must not read '$' in them as maths.
STYLE = {'font.size': 9, 'text.parse_math': False, 'svg.hashsalt': 'ra_mm'}


class Panel(NamedTuple):
    """The content of one chart.

    ``curves`` has a list for each row of a table, with the curve of each seed;
    or, for the key 'G', a dict with mean and standard deviation by stage. A
    curve is a list of [step, value].
    """

    title: str
    runs: list[str]  # ids of the runs that it shows
    key: str  # of the curves in the ledger
    curves: list | dict


def table_figures(ledger: dict, table: Table, shown: set) -> Iterator[str]:
    """The charts of a table: comparisons, hours, and the curves of each group.

    Args:
        ledger: Content of the ledger.
        table: The table.
        shown: Charts that the page has already; the new ones are added.
    """
    if table.readings:
        yield from _comparison_figures(ledger, table)
    if table.has_hours:
        yield _hours_figure(ledger, table)
    for group, rows in groupby(table.rows, lambda row: row['group']):
        rows, panels = list(rows), []
        for panel in make_panels(ledger, rows, table.main_metric):
            identity = (panel.key, *panel.runs)
            if identity not in shown:
                shown.add(identity)
                panels.append(panel)
        if panels:
            names = [row['name'] for row in rows]
            yield _group_figure(json.dumps([group, names, panels]))


def make_panels(ledger: dict, rows: list[dict], metric: str | None) -> list[Panel]:
    """Collect the charts of a group of rows for which there is data.

    Args:
        ledger: Content of the ledger.
        rows: Rows of the group.
        metric: Metric of the validation curve, if any.
    """
    titles = {'loss': 'Training loss'}
    if metric:
        titles[f'val/{metric}'] = headings()[metric]
    titles['temp'] = 'temp'
    run_ids = [run_id for row in rows for run_id in row['runs']]
    panels = []
    for key, title in titles.items():
        curves = [
            [curve for run in runs_of(ledger, row) if (curve := get_curve(run, key))]
            for row in rows
        ]
        if any(curves):
            panels.append(Panel(title, run_ids, key, curves))
    for row in rows:
        for run in runs_of(ledger, row):
            stages = _stages(run)
            if stages:
                title = f'{row["name"]}: G by stage, mean ± std, seed {run["seed"]}'
                panels.append(Panel(title, row['runs'], 'G', stages))
                break
    return panels


def get_curve(run: dict, key: str) -> list[list[float]]:
    """The finite points of a logged curve."""
    points = (run.get('curves') or {}).get(key) or []
    return [[x, y] for x, y in points if y is not None and math.isfinite(y)]


def _stages(run):
    """The curves of the mean and the standard deviation of G by stage."""
    stages = {}
    for key in sorted(run.get('curves') or {}):
        found = re.fullmatch(r'G_(.+)_mean', key)
        if found and (curve := get_curve(run, key)):
            stages[found[1]] = curve, get_curve(run, f'G_{found[1]}_std')
    return stages


@lru_cache(maxsize=128)  # it takes a second, and a report is written often
def _group_figure(content):
    """The charts of a group, given as JSON."""
    group, names, panels = json.loads(content)
    panels = [Panel(*panel) for panel in panels]
    with matplotlib.rc_context(STYLE):
        titles = ', '.join(panel.title for panel in panels)
        text = f'{group} ({", ".join(names)}): {titles}'
        return f'<h3>{escape(group)}</h3>{_to_html(draw_panels(panels, names), text)}'


def draw_panels(panels: list[Panel], names: list[str]) -> Figure:
    """Draw charts side by side, below a legend with the names of the rows."""
    columns = min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    size = max(columns, 2) * PANEL_SIZE[0], rows * PANEL_SIZE[1] + 0.4
    figure = Figure(size, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, panel in zip(axes, panels):
        ax.set_title(panel.title, fontsize='medium', loc='left')
        draw = _draw_stages if panel.key == 'G' else _draw_curves
        draw(ax, panel)
        ax.spines[['top', 'right']].set_visible(False)
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        is_validation = panel.key.startswith('val/')
        ax.set_xlabel('epoch or iteration' if is_validation else 'iteration')
    for ax in axes[len(panels) :]:
        ax.remove()
    lines = [
        Line2D([], [], color=COLORS[i % len(COLORS)], label=name)
        for i, name in enumerate(names)
    ]
    figure.legend(
        handles=lines, loc='outside upper left', ncols=len(names), frameon=False
    )
    return figure


def _draw_curves(ax, panel):
    """Draw thin lines for the seeds of each row, and a thick one for the mean."""
    for i, curves in enumerate(panel.curves):
        color = COLORS[i % len(COLORS)]
        curves = [np.array(curve) for curve in curves]
        if len(curves) > 1:
            for curve in curves:
                ax.plot(*curve.T, color=color, linewidth=0.6, alpha=0.7)
            curves = [_mean(curves)]
        for curve in curves:
            marker = 'o' if len(curve) < MAX_MARKED_POINTS else None
            ax.plot(*curve.T, color=color, linewidth=1.6, marker=marker, markersize=3)
    values = np.concatenate([line.get_ydata() for line in ax.lines])
    # On a linear scale, a diverged run would flatten the others.
    if panel.key == 'loss' and 0 < 100 * values.min() < values.max():
        ax.set_yscale('log')


def _mean(curves):
    """The mean of curves over the steps that all of them have."""
    steps = sorted(set.intersection(*(set(curve[:, 0]) for curve in curves)))
    values = [np.interp(steps, *curve.T) for curve in curves]
    return np.stack([steps, np.mean(values, axis=0)], axis=1)


def _draw_stages(ax, panel):
    """Draw the mean of G in each stage, and a band of one standard deviation."""
    ax.axhline(1, color='black', linewidth=0.8, linestyle='--')
    for i, (stage, (mean, std)) in enumerate(panel.curves.items()):
        color = STAGE_COLORS[i % len(STAGE_COLORS)]
        steps, mean = np.array(mean).T
        ax.plot(steps, mean, color=color, linewidth=1.6, label=stage)
        if std:
            std = np.interp(steps, *np.array(std).T)
            ax.fill_between(
                steps, mean - std, mean + std, color=color, alpha=0.15, lw=0
            )
    ax.legend(fontsize='x-small', frameon=False, ncols=2)


def _comparison_figures(ledger, table):
    metric = table.main_metric
    for base, compared in compare_groups(ledger, table.rows, metric):
        values = {
            row['name']: list(found.values())
            for row in (base, *(row for row, _ in compared))
            if (found := values_by_seed(ledger, row, metric))
        }
        differences = {r['name']: c for r, c in compared if c is not None}
        if max(map(len, values.values()), default=0) > 1:
            with matplotlib.rc_context(STYLE):
                figure = draw_comparison(values, differences, headings()[metric])
                text = f'{base["group"]}: each seed, and differences to the baseline'
                yield f'<h3>{escape(base["group"])}</h3>{_to_html(figure, text)}'


def draw_comparison(
    values: dict[str, list[float]], comparisons: dict[str, Comparison], heading: str
) -> Figure:
    """Draw the value of each run, and the differences to the baseline.

    Args:
        values: By model, from top to bottom; the first one is the baseline.
        comparisons: By model, without the baseline.
        heading: What the values are, with their unit.
    """
    figure = Figure((8.4, 1.1 + 0.32 * len(values)), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    for y, (name, found) in enumerate(values.items()):
        color = COLORS[y % len(COLORS)]
        left.plot(found, len(found) * [y], 'o', color=color, alpha=0.6, markersize=4)
        left.plot(np.mean(found), y, '|', color='black', markersize=14)
        if name in comparisons:
            differences, interval, *_ = comparisons[name]
            ys = len(differences) * [y]
            right.plot(differences, ys, 'o', color=color, alpha=0.6, markersize=4)
            right.plot(differences.mean(), y, '|', color='black', markersize=14)
            if interval:
                right.plot(interval, [y, y], color='black', linewidth=1.2)
    baseline = next(iter(values))
    left.axvline(np.mean(values[baseline]), color='black', lw=0.8, ls='--')
    right.axvline(0, color='black', linewidth=0.8, linestyle='--')
    left.set_yticks(range(len(values)), values)
    left.invert_yaxis()
    left.set_xlabel(f'{heading} of each seed, and the mean')
    right.set_xlabel(f'minus {baseline}, by seed (95 % interval)')
    for ax in (left, right):
        ax.spines[['top', 'right']].set_visible(False)
        ax.grid(alpha=0.3, linewidth=0.6, axis='x')
    return figure


def _hours_figure(ledger, table):
    """Draw bars of the training hours relative to the baseline."""
    ratios = {}
    for row in table.rows:
        printed, ours = hours_ratios(ledger, row)
        name = row['name']
        if not row['group'].startswith(name):
            name = f'{row["group"]} {name}'
        ratios[name] = (None if ledger['scale'] == 'demo' else printed), ours
    if not any(ours for _, ours in ratios.values()):
        return ''
    with matplotlib.rc_context(STYLE):
        image = _to_html(
            draw_hours(ratios),
            f'{table.title}: training hours relative to the baseline',
        )
    return (
        '<h3>Training hours relative to the baseline</h3><p>Wall time, including any '
        f'other load on the machine; median of the seeds.</p>{image}'
    )


def draw_hours(ratios: dict[str, tuple[float | None, float | None]]) -> Figure:
    """Draw bars of ratios, the paper's and ours, by name."""
    figure = Figure((8, 0.8 + 0.34 * len(ratios)), layout='constrained')
    ax = figure.subplots()
    ax.axvline(1, color='black', linewidth=0.8, linestyle='--')
    series = [
        (label, color, values)
        for label, color, values in zip(
            ('paper', 'ours'), (COLORS[0], COLORS[3]), zip(*ratios.values())
        )
        if any(values)
    ]
    height = 0.7 / len(series)
    for i, (label, color, values) in enumerate(series):
        found = np.array([(y, value) for y, value in enumerate(values) if value])
        y = found[:, 0] + height * (i + 0.5) - 0.35
        bars = ax.barh(y, found[:, 1], 0.95 * height, color=color, label=label)
        ax.bar_label(bars, fmt=' %.2f', fontsize='small')
    ax.set_yticks(range(len(ratios)), ratios)
    ax.invert_yaxis()
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(fontsize='small', frameon=False, loc='upper left', bbox_to_anchor=(1, 1))
    return figure


def gate_figures(ledger: dict) -> Iterator[tuple[str, str]]:
    """Fig. 5 and the spread by depth for each row with measured gates.

    Yields:
        The id of the row's first run with gates; and the images, after what all
        runs of the row say about the paper's claims.
    """
    seen = set()
    for row in ledger['rows']:
        measured = {
            run_id: found
            for run_id in row['runs']
            if (found := ledger['runs'].get(run_id, {}).get('gates'))
        }
        run_id = next(iter(measured), None)
        if measured and run_id not in seen:
            seen.add(run_id)
            claims = gates.check_claims(list(measured.values()))
            images = _gate_images(run_id, json.dumps(measured[run_id]))
            yield run_id, f'<p>{escape(" ".join(claims))}</p>{"".join(images)}'


@lru_cache(maxsize=32)  # they take seconds, and a report is written often
def _gate_images(run_id, measured):
    measured = json.loads(measured)
    return [
        _to_html(
            gates.plot_gates(measured), f'{run_id}: G by channel and class', 'png'
        ),
        _to_html(gates.plot_spread(measured), f'{run_id}: G by depth', 'png'),
    ]


def _to_html(figure, text, image_format='svg'):
    out = io.BytesIO()
    metadata = {'Date': None} if image_format == 'svg' else None
    figure.savefig(out, format=image_format, dpi=90, metadata=metadata)
    data = base64.b64encode(out.getvalue()).decode()
    mime = 'image/svg+xml' if image_format == 'svg' else 'image/png'
    return (
        f'<figure><img src="data:{mime};base64,{data}" alt="{escape(text)}"></figure>'
    )
