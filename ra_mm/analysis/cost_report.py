"""What ``tools/benchmark.py`` has measured, as a table and as pictures.

The results are a dict, as in its JSON file: ``environment``, ``sweep`` and a
list of ``measurements``. A measurement has a line in all tables for each of
its ``results``, of which the first is the plain model's.
"""

import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from ra_mm.fileio import atomic_write


def summary(result: dict, plain: dict) -> dict:
    """The figures of a variant beside those of the plain model.

    Args:
        result (dict): ``pairs_ms``, the plain model's and the variant's time
            in each round, at least 2; ``peak_bytes`` and ``saved_bytes``, or
            None.
        plain (dict): The same of the plain model.

    Returns:
        dict: ``ms`` (median of its times), ``ratio`` (median of the rounds'
        ratios), ``quartiles`` (the lower and the upper one of these), ``peak``
        and ``saved`` (ratios, or None).
    """
    low, ratio, high = statistics.quantiles(
        [own / p for p, own in result['pairs_ms']], n=4, method='inclusive'
    )

    def over_plain(key):
        return result[key] / plain[key] if plain[key] else None

    return dict(
        ms=statistics.median(own for _, own in result['pairs_ms']),
        ratio=ratio,
        quartiles=(low, high),
        peak=over_plain('peak_bytes'),
        saved=over_plain('saved_bytes'),
    )


def title(m: dict) -> str:
    """What a measurement is of."""
    return (
        f'{m["what"]} {m["model"]}, {m["device"]} {m["precision"]} '
        f'{m["layout"]}, {m["batch"]} x {m["size"]} px'
    )


def table(m: dict) -> str:
    """A measurement as a Markdown table."""
    lines = [
        f'{title(m)}, {m["rounds"]} rounds of {m["number"]}',
        '',
        '| variant | ms | time [quartiles] | peak MB | peak | saved MB '
        '| saved | paper |',
        '| --- |' + ' ---: |' * 7,
    ]

    def cell(value, form, unit=1):
        return '' if value is None else format(value / unit, form)

    for result in m['results']:
        s = summary(result, m['results'][0])
        low, high = s['quartiles']
        cells = [
            result['variant'],
            cell(s['ms'], '.4g'),
            f'{s["ratio"]:.3f} [{low:.3f}, {high:.3f}]',
            cell(result['peak_bytes'], '.1f', 1e6),
            cell(s['peak'], '.3f'),
            cell(result['saved_bytes'], '.1f', 1e6),
            cell(s['saved'], '.3f'),
            cell(result['paper_ratio'], '.2f'),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def plot(data: dict) -> Figure:
    """Bars of the time and the saved activations, or the lines of a sweep."""
    fig = Figure(layout='constrained')
    (_plot_sweep if data['sweep'] else _plot_bars)(fig, data['measurements'])
    env = data['environment']
    fig.supxlabel(
        f'{env["gpu"] or env["cpu"]}, torch {env["torch"]}'
        f'{"" if env["gpu"] else ", threads: " + str(env["threads"])}',
        fontsize='x-small',
    )
    return fig


def _plot_bars(fig, measurements):
    sizes = [2 + len(m['results']) for m in measurements]
    fig.set_size_inches(9, 1 + 0.2 * sum(sizes))
    rows = fig.subplots(len(measurements), 2, squeeze=False, height_ratios=sizes)
    for (times, saved), m in zip(rows, measurements):
        plain, *others = m['results']
        figures = [summary(r, plain) for r in others]
        names = [r['variant'] for r in others]
        times.set_title(title(m), fontsize='small', loc='left')
        _bars(times, names, [f['ratio'] for f in figures], 'C0')
        for name, f in zip(names, figures):
            times.plot(f['quartiles'], [name, name], 'k|-', linewidth=1)
        printed = [(r['paper_ratio'], r['variant']) for r in others if r['paper_ratio']]
        if printed:
            times.plot(*zip(*printed), 'kD', markersize=4, label='paper')
            times.legend(fontsize='x-small')
        if plain['saved_bytes']:
            _bars(saved, names, [f['saved'] for f in figures], 'C1')
            saved.tick_params(labelleft=False)
        else:
            saved.set_visible(False)
    fig.suptitle(
        'Ratios to plain: time with quartiles, saved activations', fontsize='medium'
    )


def _bars(ax, names, ratios, color):
    ax.barh(names, ratios, color=color)
    for name, ratio in zip(names, ratios):
        ax.text(0, name, f' {ratio:.2f}', color='w', va='center')
    ax.axvline(1, color='k', linewidth=1)
    ax.invert_yaxis()
    ax.tick_params(labelsize='small')


def _plot_sweep(fig, measurements):
    base = measurements[0]
    labels = dict(size='image side (px)', batch='batch', model='model')
    fig.set_size_inches(9, 3.2)
    axes = fig.subplots(1, len(labels), sharey=True)
    for ax, (key, label) in zip(axes, labels.items()):
        line = [
            m for m in measurements if all(m[k] == base[k] for k in labels if k != key)
        ]
        line.sort(key=lambda m: (len(str(m[key])), m[key]))
        x = [str(m[key]) for m in line]
        for i, result in enumerate(base['results'][1:], 1):
            figures = [summary(m['results'][i], m['results'][0]) for m in line]
            low, high = zip(*(f['quartiles'] for f in figures))
            ax.plot(x, [f['ratio'] for f in figures], 'o-', label=result['variant'])
            ax.fill_between(x, low, high, alpha=0.2)
        ax.axhline(1, color='k', linewidth=1)
        ax.set_xlabel(label)
    axes[0].set_ylabel('time, ratio to plain')
    axes[0].legend(fontsize='small')
    fig.suptitle(title(base), fontsize='small')


def read(path: Path) -> dict:
    """Results that an earlier run has written.

    Raises:
        ValueError: If the file has none.
    """
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        [title(m) for m in data['measurements']]
        data['environment'], data['sweep']
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(
            f'{path} has no results: expected is a file that '
            'tools/benchmark.py --out has written'
        ) from e
    return data


def write_json(data: dict, path: Path) -> None:
    with atomic_write(path) as f:
        f.write(json.dumps(data, indent=1) + '\n')


def write_picture(data: dict, path: Path) -> None:
    with atomic_write(path, 'wb') as f:
        plot(data).savefig(f, format='png', dpi=150)
