"""Draw the charts of the report with matplotlib, as images for an HTML page."""

import base64
import io
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle, groupby
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ra_mm.analysis import gates

from . import paper
from .ledger import Ledger, RequestedRow
from .tables import Table

COLORS = ('#8a8f98', '#3f8fd9', '#d98a1f', '#d9485f', '#3fa66b', '#9a6fd0', '#1fa3a8')
STAGE_COLORS = matplotlib.colormaps['plasma'](np.linspace(0.05, 0.85, 5))
PANEL_SIZE = 3.15, 2.5  # inches
MAX_COLUMNS = 4
LEGEND_WIDTH = 1.5  # inches for a name
MAX_MARKED_POINTS = 15
# Names come from the user; matplotlib must not read '$' in them as maths.
STYLE = {'font.size': 9, 'text.parse_math': False, 'svg.hashsalt': 'ra_mm'}


class Chart(NamedTuple):
    """An image for the page.

    Attributes:
        heading: What it shows, in short.
        text: What it shows, for readers who do not see it.
        source: The image as a data URI.
        note: A sentence above it.
    """

    heading: str
    text: str
    source: str
    note: str = ''


class Panel(NamedTuple):
    """The content of one of the diagrams of a group of rows.

    ``curves`` has a list for each row, with the curve of each seed; or, for the
    key 'G', a dict with mean and standard deviation by stage. A curve is a list
    of [step, value].
    """

    title: str
    key: str  # of the curves in the ledger
    curves: list | dict


def make_charts(ledger: Ledger, table: Table) -> Iterator[Chart]:
    """Draw comparisons, the curves of each group, and the gates as in Fig. 5.

    Args:
        ledger: The ledger.
        table: One of its tables.
    """
    yield from _comparison_charts(table)
    rows = [row for row, _ in table.rows]
    for group, rows_of_group in groupby(rows, lambda row: row.group):
        members = [*rows_of_group]
        if panels := make_panels(ledger, members, table.metric):
            names = [row.name for row in members]
            titles = ', '.join(panel.title for panel in panels)
            text = f'{group} ({", ".join(names)}): {titles}'
            yield Chart(group, text, _draw(draw_panels, panels, names))
    for row in rows:
        yield from _gate_charts(ledger, row)


def _draw(draw, *arguments, image_format='svg'):
    return _draw_json(draw, json.dumps(arguments), image_format)


@lru_cache(maxsize=256)  # drawing takes a second, and a report is written often
def _draw_json(draw, arguments, image_format):
    """Draw a figure from JSON, as a data URI."""
    out = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = draw(*json.loads(arguments))
        metadata = {'Date': None} if image_format == 'svg' else None
        figure.savefig(out, format=image_format, dpi=90, metadata=metadata)
    mime = 'image/svg+xml' if image_format == 'svg' else 'image/png'
    return f'data:{mime};base64,{base64.b64encode(out.getvalue()).decode()}'


def _comparison_charts(table):
    for base, by_seed, others in table.comparisons:
        values = {name: [*found.values()] for name, found in by_seed.items()}
        if max(map(len, values.values()), default=0) > 1:
            compared = {
                row.name: ([*comparison.differences], comparison.interval)
                for row, comparison in others
                if comparison is not None
            }
            heading = paper.metrics()[table.metric]
            image = _draw(draw_comparison, values, compared, heading)
            text = f'{base.group}: each seed, and differences to the baseline'
            yield Chart(base.group, text, image)


def draw_comparison(
    values: dict[str, list[float]],
    compared: dict[str, tuple[list[float], tuple[float, float] | None]],
    heading: str,
) -> Figure:
    """Draw the value of each run, and the differences to the baseline.

    Args:
        values: By model, from top to bottom; the first one is the baseline.
        compared: By model, without the baseline, the difference of each seed
            and the confidence interval of their mean.
        heading: What the values are, with their unit.
    """
    figure = Figure((8.4, 1.1 + 0.32 * len(values)), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    for y, (name, found) in enumerate(values.items()):
        differences, interval = compared.get(name, ([], None))
        for ax, points in ((left, found), (right, differences)):
            if points:
                color = COLORS[y % len(COLORS)]
                ax.plot(points, len(points) * [y], 'o', c=color, alpha=0.6, ms=4)
                ax.plot(np.mean(points), y, '|', color='black', markersize=14)
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


def make_panels(
    ledger: Ledger, rows: list[RequestedRow], metric: str | None
) -> list[Panel]:
    """Collect the diagrams of a group of rows for which there is data.

    Args:
        ledger: The ledger.
        rows: Rows of the group.
        metric: Metric of the validation curve, if any.
    """
    titles = {'loss': 'Training loss'}
    if metric:
        titles[f'val/{metric}'] = paper.metrics()[metric]
    titles['temp'] = 'temp'
    panels = []
    for key, title in titles.items():
        found = [[e.curve(key) for e in ledger.entries(row)] for row in rows]
        curves = [[curve for curve in of_row if curve] for of_row in found]
        if any(curves):
            panels.append(Panel(title, key, curves))
    for row in rows:
        for entry in ledger.entries(row):
            if stages := _stage_curves(entry):
                title = f'{row.name}: G by stage, mean ± std, seed {entry.seed}'
                panels.append(Panel(title, 'G', stages))
                break
    return panels


def _stage_curves(entry):
    """The curves of the mean and the standard deviation of G by stage."""
    matches = (re.fullmatch('G_(.+)_mean', key) for key in sorted(entry.curves))
    return {
        match[1]: (mean, entry.curve(f'G_{match[1]}_std'))
        for match in matches
        if match and (mean := entry.curve(match[0]))
    }


def draw_panels(panels: list[Panel], names: list[str]) -> Figure:
    """Draw diagrams side by side, below a legend with the names of the rows."""
    panels = [Panel(*panel) for panel in panels]
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
    colors = cycle(COLORS)
    lines = [Line2D([], [], color=c, label=name) for c, name in zip(colors, names)]
    columns = min(len(names), int(size[0] / LEGEND_WIDTH))
    place = dict(loc='outside upper left', ncols=columns, frameon=False)
    figure.legend(handles=lines, **place)
    return figure


def _draw_curves(ax, panel):
    """Draw the mean of the seeds of each row, and a band of one standard deviation."""
    for i, curves in enumerate(panel.curves):
        if not curves:
            continue
        color = COLORS[i % len(COLORS)]
        steps, values = _align([np.array(curve) for curve in curves])
        marker = 'o' if len(steps) < MAX_MARKED_POINTS else None
        mean, std = values.mean(axis=0), values.std(axis=0)
        ax.plot(steps, mean, color=color, linewidth=1.6, marker=marker, markersize=3)
        if len(values) > 1:
            band = mean - std, mean + std
            ax.fill_between(steps, *band, color=color, alpha=0.15, lw=0)
    values = np.concatenate([line.get_ydata() for line in ax.lines])
    # On a linear scale, a diverged run would flatten the others.
    if panel.key == 'loss' and 0 < 100 * values.min() < values.max():
        ax.set_yscale('log')


def _align(curves):
    """The steps up to the end of the shortest curve, and the values of all at these."""
    last = min(curve[-1, 0] for curve in curves)
    steps = [step for step in curves[0][:, 0] if step <= last]
    return steps, np.stack([np.interp(steps, *curve.T) for curve in curves])


def _draw_stages(ax, panel):
    """Draw the mean of G in each stage, and a band of one standard deviation."""
    ax.axhline(1, color='black', linewidth=0.8, linestyle='--')
    for i, (stage, (mean, std)) in enumerate(panel.curves.items()):
        color = STAGE_COLORS[i % len(STAGE_COLORS)]
        steps, mean = np.array(mean).T
        ax.plot(steps, mean, color=color, linewidth=1.6, label=stage)
        if std:
            std = np.interp(steps, *np.array(std).T)
            band = mean - std, mean + std
            ax.fill_between(steps, *band, color=color, alpha=0.15, lw=0)
    ax.legend(fontsize='x-small', frameon=False, ncols=2)


def _gate_charts(ledger, row):
    """Fig. 5 of the first seed, and the spread by depth."""
    runs = {run_id: ledger.runs[run_id] for run_id in row.runs if run_id in ledger.runs}
    measured = {run_id: entry.gates for run_id, entry in runs.items() if entry.gates}
    for run_id, found in [*measured.items()][:1]:
        text, claims = f'{run_id}: G by', gates.check_claims([*measured.values()])
        fig5 = _draw(gates.plot_gates, found, image_format='png')
        text5, depth = f'{text} channel and class', f'{text} depth'
        yield Chart(f'{text5}, as in Fig. 5', text5, fig5, ' '.join(claims))
        spread = _draw(gates.plot_spread, found, image_format='png')
        yield Chart(depth, depth, spread)
