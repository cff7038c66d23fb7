"""The charts of a report, as HTML."""

import base64
import io
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from itertools import groupby

import numpy as np
from matplotlib.ticker import MaxNLocator

from ra_mm.analysis import gates

from .tables import headings, hours_ratios, runs_of_row

COLOURS = ('#8a8f98', '#3f8fd9', '#d98a1f', '#d9485f', '#3fa66b', '#9a6fd0', '#1fa3a8')
STAGES = ('#8a63d2', '#b8509f', '#d0506f', '#e2773f', '#dfa32a', '#9fae3a', '#4fae7c')


def table_charts(ledger: dict, table: dict, drawn: set) -> Iterator[str]:
    """The charts of a table. What another table has shown is left out."""
    if table['hours']:
        yield _hours(ledger, table['rows'])
    keys = [('loss', 'Training loss'), ('temp', 'temp')]
    if table['main']:
        keys.insert(1, (f'val/{table["main"]}', headings()[table['main']]))
    for group, rows in groupby(table['rows'], lambda row: row['group']):
        rows, charts = list(rows), []
        for key, title in keys:
            this = (key, *(name for row in rows for name in row['runs']))
            if this not in drawn:
                drawn.add(this)
                charts.append(_curves(ledger, rows, key, title))
        for row in rows:
            run = next(filter(_stages, runs_of_row(ledger, row)), None)
            if run and ('G', *row['runs']) not in drawn:
                drawn.add(('G', *row['runs']))
                charts.append(_gate_curves(run, row['name']))
        if any(charts):
            key = _key((row['name'] for row in rows), COLOURS)
            yield (
                f'<details open><summary>{escape(group)}</summary>{key}'
                f'<div class="charts">{"".join(charts)}</div></details>'
            )


def _key(names, colours):
    names = (
        f'<span><i style="color:{colours[i % len(colours)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
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
        curves = [_curve(run, key) for run in runs_of_row(ledger, row)]
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
    found = (re.fullmatch(r'G_(.+)_mean', key) for key in run.get('curves') or {})
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
    return _chart(
        f'{name}: G by stage, mean ± std, seed {run["seed"]}',
        bands + lines,
        'G',
        _key(_stages(run), STAGES),
    )


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
        lines = [
            (np.stack([p[:, 0], np.log10(p[:, 1])], axis=1), *style)
            for p, *style in lines
        ]
        points = np.concatenate([line[0] for line in lines])
    (left, right), (low, high) = (
        (a, b) if a < b else (a - 1, b + 1)
        for a, b in zip(points.min(axis=0), points.max(axis=0))
    )
    locator = MaxNLocator(4, steps=[1, 2, 5, 10], integer=log)
    ticks = locator.tick_values(low, high)
    low, high = ticks[0], ticks[-1]

    def at(x, y):
        return (
            48 + 330 * (x - left) / (right - left),
            192 - 184 * (y - low) / (high - low),
        )

    parts = []
    for tick in ticks:
        y = at(0, tick)[1]
        label = f'{10**tick if log else tick:.6g}'
        parts.append(
            f'<path class="grid" d="M48 {y:.1f}H378"/><text x="43" '
            f'y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for tick in MaxNLocator(5, integer=True).tick_values(left, right):
        if left <= tick <= right:
            parts.append(
                f'<text x="{at(tick, 0)[0]:.1f}" y="207" '
                f'text-anchor="middle">{tick:.7g}</text>'
            )
    for curve, colour, width in lines:
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in zip(*at(*curve.T)))
        parts.append(
            f'<polyline points="{path}" stroke="{colour}" stroke-width="{width}"/>'
            if width
            else f'<polygon points="{path}" fill="{colour}" opacity=".15"/>'
        )
        if width > 1 and len(curve) < 15:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
                for x, y in zip(*at(*curve.T))
            ]
    unit = 'epoch or iteration' if key.startswith('val/') else 'iteration'
    return (
        f'<figure><figcaption>{escape(title)}{legend}</figcaption>'
        f'<svg viewBox="0 0 400 224" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}<text x="213" '
        f'y="221" text-anchor="middle">{unit}</text></svg></figure>'
    )


def _hours(ledger, rows):
    """Bars of the ratios in the last column of Tables 2 and 3."""
    ratios = [hours_ratios(ledger, row) for row in rows]
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
            f'{r:.2f}</div>'
            for r, colour in zip(ratio[::-1], COLOURS[3::-3])
            if r
        )
        lines.append(f'<tr><th>{escape(name)}</th><td>{bars or "–"}')
    names = ('ours', 'paper') if any(r for r, _ in ratios) else ('ours',)
    return (
        '<h3>Training hours against the plain baseline</h3>'
        '<p>By the clock, so with whatever else the machine did; the '
        'median of the seeds.</p>'
        f'{_key(names, COLOURS[3::-3])}<table class="bars">'
        f'{"".join(lines)}</table>'
    )


def fig5(ledger: dict, banner: str) -> Iterator[str]:
    """Fig. 5 and the spread by depth, of the first seed of each row."""
    names = (
        next(
            (name for name in row['runs'] if ledger['runs'].get(name, {}).get('gates')),
            None,
        )
        for row in ledger['rows']
    )
    for name in filter(None, dict.fromkeys(names)):
        yield f'<h3>{escape(name)}</h3><b class="demo">{banner}</b>'
        for data in _pictures(json.dumps(ledger['runs'][name]['gates'])):
            yield (
                f'<figure><img alt="Gates of {escape(name)}" '
                f'src="data:image/png;base64,{data}"></figure>'
            )


@lru_cache(maxsize=32)  # two seconds each, and a report is written often
def _pictures(measured):
    pictures = []
    for draw in (gates.plot, gates.plot_spread):
        out = io.BytesIO()
        draw(json.loads(measured)).savefig(out, dpi=90)
        pictures.append(base64.b64encode(out.getvalue()).decode())
    return pictures
