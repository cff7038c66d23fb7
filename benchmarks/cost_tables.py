"""Tables and pictures of the results of ``tools/benchmark.py``.

Results are a dict, as in the tool's JSON file. Ordinary ones have
``environment``, ``sweep`` and a list of ``measurements``; a GPU report has
``environment``, ``minutes`` and ``parts``. A measurement has ``results``, one
for each variant, the plain model first.
"""

import json
import math
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.paths import describe_choice
from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write


def summary(result: dict, plain: dict) -> dict:
    """Compare a variant with the plain model.

    Args:
        result (dict): ``pairs_ms`` (the plain model's and the variant's time
            in each round, at least 2), ``peak_bytes`` and ``saved_bytes``
            (both may be None).
        plain (dict): The same for the plain model.

    Returns:
        dict: ``ms`` (the variant's median time), ``ratio`` (the median of the
        rounds' ratios), ``quartiles`` (the lower and upper quartile of the
        ratios), ``peak`` and ``saved`` (ratios, or None).
    """
    low, ratio, high = statistics.quantiles(
        [own / p for p, own in result['pairs_ms']], n=4, method='inclusive'
    )

    def over_plain(key):
        return result[key] / plain[key] if plain[key] and result[key] else None

    return dict(
        ms=statistics.median(own for _, own in result['pairs_ms']),
        ratio=ratio,
        quartiles=(low, high),
        peak=over_plain('peak_bytes'),
        saved=over_plain('saved_bytes'),
    )


def title(m: dict) -> str:
    """Name the settings of a measurement."""
    return (
        f'{m["what"]} {m["model"]}, {m["device"]} {m["precision"]} '
        f'{m["layout"]}, {m["batch"]} x {m["size"]} px'
    )


def table(m: dict) -> str:
    """Format a measurement as a Markdown table."""
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
        if 'error' in result:
            message = ' '.join(result['error'].split()).replace('|', '/')
            lines.append(f'| {result["variant"]} | {message[:200]} |' + ' |' * 6)
            continue
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
            cell(result.get('paper_ratio'), '.2f'),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    if 'choice' in m:
        lines += ['', describe_choice(m['choice'])]
    return '\n'.join(lines) + '\n'


def report_tables(report: dict) -> str:
    """Format a GPU report as Markdown, one section for each part."""
    env = report['environment']
    facts = 'gpu', 'driver', 'cuda', 'cudnn', 'torch', 'python', 'commit', 'date'
    sections = [', '.join(f'{key} {env[key]}' for key in facts if env.get(key))]
    for part in report['parts']:
        state = f'{part["status"]}, {part["seconds"]:.0f} s'
        reason = f': {part["reason"]}' if 'reason' in part else ''
        sections.append(f'## {part["name"]} ({state}){reason}')
        results = part['results']
        sections += [table(r) for r in results if 'what' in r]
        errors = [r for r in results if 'path' in r]
        if errors:
            sections.append(_exactness_table(errors))
        operators = [r for r in results if 'library' in r]
        if operators:
            sections.append(_operator_table(operators))
    return '\n\n'.join(sections)


def _exactness_table(results):
    """The largest errors by path and dtype, over layouts and batch norm's mode."""
    names = list(results[0]['errors'])
    lines = [
        'Largest norm of the error, relative to that of the exact value:',
        '',
        f'| path | dtype | {" | ".join(names)} |',
        '| --- | --- |' + ' ---: |' * len(names),
    ]
    for path, dtype in dict.fromkeys((r['path'], r['dtype']) for r in results):
        errors = [
            r['errors'] for r in results if (r['path'], r['dtype']) == (path, dtype)
        ]
        cells = [f'{_largest(e[name]["norm"] for e in errors):.1e}' for name in names]
        lines.append(f'| {path} | {dtype} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _largest(values):
    """The maximum, NaN if one of the values is NaN."""
    return max(values, key=lambda v: (math.isnan(v), v))


def _operator_table(results):
    lines = [
        '| operator | library | size | ms | against the CPU in float64 |',
        '| --- | --- | ---: | ---: | --- |',
    ]
    for r in results:
        if 'skipped' in r:
            lines.append(f'| | {r["library"]} | | | skipped: {r["skipped"]} |')
            continue
        size = r.get('boxes', r.get('rois'))
        deviation = (
            f'{r["different"]} of {r["kept"]} boxes differ'
            if r['operator'] == 'nms'
            else ', '.join(f'{k} {e["norm"]:.1e}' for k, e in r['errors'].items())
        )
        lines.append(
            f'| {r["operator"]} | {r["library"]} | {size} | {r["ms"][1]:.3f} '
            f'| {deviation} |'
        )
    return '\n'.join(lines)


def plot(data: dict) -> Figure:
    """Draw bars of time and saved activations, or the lines of a sweep."""
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
        if 'choice' in base:  # the path that was chosen, below each value
            paths = [m['choice']['path'] for m in line]
            ax.set_xticks(range(len(x)), map('\n'.join, zip(x, paths)))
        ax.set_xlabel(label)
        ax.margins(x=0.12)
    axes[0].set_ylabel('time, ratio to plain')
    axes[0].legend(fontsize='small')
    fig.suptitle(title(base), fontsize='small')


def read(path: Path) -> dict:
    """Read the results of an earlier run.

    Raises:
        UserError: If the file has no results.
    """
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        if 'parts' in data:
            report_tables(data)
        else:
            [title(m) for m in data['measurements']]
            data['environment'], data['sweep']
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(
            f'{path} has no results: expected a file written by '
            'tools/benchmark.py with --out or --gpu-report'
        ) from e
    return data


def write_json(data: dict, path: Path) -> None:
    with atomic_write(path) as f:
        f.write(json.dumps(data, indent=1) + '\n')


def write_picture(data: dict, path: Path) -> None:
    with atomic_write(path, 'wb') as f:
        plot(data).savefig(f, format='png', dpi=150)
