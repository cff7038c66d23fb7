"""Pictures of the results of ``tools/benchmark.py``."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.cost_tables import compare_with_plain, title
from ra_mm.fileio import atomic_write


def plot_costs(data: dict) -> Figure:
    """Draw bars of time and saved activations, or the lines of a sweep."""
    fig = Figure(layout='constrained')
    (_plot_sweep if data['sweep'] else _plot_bars)(fig, data['measurements'])
    env = data['environment']
    text = f'{env["gpu"] or env["cpu"]}, torch {env["torch"]}'
    threads = '' if env['gpu'] else f', threads: {env["threads"]}'
    fig.supxlabel(text + threads, fontsize='x-small')
    return fig


def _plot_bars(fig, measurements):
    sizes = [2 + len(m['results']) for m in measurements]
    fig.set_size_inches(9, 1 + 0.2 * sum(sizes))
    rows = fig.subplots(len(measurements), 2, squeeze=False, height_ratios=sizes)
    for (times, saved), m in zip(rows, measurements):
        plain, *others = m['results']
        figures = [compare_with_plain(r, plain) for r in others]
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
    text = 'Ratios to plain: time with quartiles, saved activations'
    fig.suptitle(text, fontsize='medium')


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
        others = labels.keys() - {key}
        line = [m for m in measurements if all(m[k] == base[k] for k in others)]
        line.sort(key=lambda m: (len(str(m[key])), m[key]))
        x = [str(m[key]) for m in line]
        for i, result in enumerate(base['results'][1:], 1):
            pairs = ((m['results'][i], m['results'][0]) for m in line)
            figures = [compare_with_plain(*pair) for pair in pairs]
            low, high = zip(*(f['quartiles'] for f in figures))
            ax.plot(x, [f['ratio'] for f in figures], 'o-', label=result['variant'])
            ax.fill_between(x, low, high, alpha=0.2)
        ax.axhline(1, color='k', linewidth=1)
        ax.set_xlabel(label)
        ax.margins(x=0.12)
    axes[0].set_ylabel('time, ratio to plain')
    axes[0].legend(fontsize='small')
    fig.suptitle(title(base), fontsize='small')


def write_picture(data: dict, path: Path) -> None:
    with atomic_write(path, 'wb') as f:
        plot_costs(data).savefig(f, format='png', dpi=150)
