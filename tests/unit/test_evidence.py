"""The tables in docs/evidence.md agree with benchmarks/results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from reproduction.comparison import compare
from reproduction.ledger import Ledger

REPO = Path(__file__).parents[2]
RESULTS = REPO / 'benchmarks/results'
TEXT = (REPO / 'docs/evidence.md').read_text(encoding='utf-8').replace('−', '-')


def read_table(heading):
    """The cells of the first table below a heading, by row."""
    _, _, section = TEXT.partition(f'# {heading}\n')
    table = re.search(r'(^\|.*\n)+', section, re.M)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table]
    return {name: cells for name, *cells in rows}


def read_curves(name, metric='top1'):
    """The values of the finished runs of a ledger, by row and seed."""
    ledger = Ledger.read(RESULTS / name)
    return {
        row.name.removeprefix('+'): {
            entry.seed: [value for _, value in entry.curve(f'val/{metric}')]
            for entry in ledger.entries(row, 'done')
        }
        for row in ledger.rows
    }


def test_attention_put_into_trained_weights():
    curves = read_curves('insert_cifar10')
    expected = {row: [f'{v:.2f}' for v in seeds[0]] for row, seeds in curves.items()}
    assert read_table('Does it hurt to put it in?') == expected


def format_comparison(comparison):
    d, (low, high), p, corrected = comparison
    return [
        f'{d.mean():+.2f}',
        f'{low:+.2f} to {high:+.2f}',
        f'{(d > 0).sum()} of {len(d)}',
        f'{p:.3f}',
        f'{corrected:.3f}',
    ]


@pytest.mark.parametrize(
    'heading, name, metric',
    [
        ('MobileNetV2', 'cifar10', 'top1'),
        ('EfficientNet-Lite0', 'cifar10_efficientnet', 'top1'),
        ('Faster R-CNN with weights', 'bccd', 'AP'),
        ('Faster R-CNN without weights', 'bccd_scratch', 'AP'),
    ],
)
def test_fine_tuning(heading, name, metric):
    curves, table = read_curves(f'finetune_{name}', metric), read_table(heading)
    assert table.keys() == curves.keys()
    seeds = set.intersection(*(set(of_row) for of_row in curves.values()))
    assert f'{len(seeds)} seeds' in TEXT.partition(f'{heading}\n')[2].split('\n|')[0]
    points = {row: {seed: curves[row][seed] for seed in seeds} for row in curves}
    ends = {row: {s: v[-1] for s, v in found.items()} for row, found in points.items()}
    compared = compare(ends, 'plain')
    for row, cells in table.items():
        v = np.array([*points[row].values()])
        means = zip(v.mean(axis=0), v.std(axis=0, ddof=1))
        assert cells[:3] == [f'{mean:.2f} ± {std:.2f}' for mean, std in means]
        if row != 'plain':
            assert cells[3:] == format_comparison(compared[row])


def test_what_can_be_chosen():
    table, base = read_table('How long do I anneal?'), read_curves('finetune_cifar10')
    names = 'annealing_05 annealing_30 gamma_lr_10 gamma_lr_01 gamma_decay_0 last_stage'
    others = [read_curves(f'finetune_cifar10_{name}')['RA'] for name in names.split()]
    pairs = zip(table, [base['RA'], base['RA without annealing'], *others], strict=True)
    ends = {row: {s: of[s][-1] for s in range(4)} for row, of in pairs}
    compared = compare(ends, 'RA as above')
    for row, (end, *cells) in table.items():
        v = [*ends[row].values()]
        assert end == f'{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}'
        if row != 'RA as above':
            assert cells == format_comparison(compared[row])


def test_worth_of_weights():
    ends = [
        [np.mean([v[-1] for v in of_row.values()]) for of_row in curves.values()]
        for curves in (
            read_curves('finetune_bccd', 'AP'),
            read_curves('finetune_bccd_scratch', 'AP'),
        )
    ]
    gains = np.subtract(*ends)
    assert f'{gains.min():.1f} to {gains.max():.1f} AP' in TEXT


def test_linear_classifiers():
    for kind in ('', '_random'):
        for name in ('mobilenetv2', 'efficientnet'):
            (end,) = read_curves(f'probe_{name}{kind}')['plain'].values()
            assert f'{end[-1]:.1f} %' in TEXT


@pytest.mark.parametrize(
    'heading, name, metric',
    [
        ('BCCD: detection', 'bccd_comparison', 'AP'),
        ('CIFAR-10: classification', 'cifar10_comparison', 'top1'),
    ],
)
def test_comparison(heading, name, metric):
    result = json.loads((RESULTS / f'{name}.json').read_text())
    values = {
        row['name'].removeprefix('+'): {
            result['runs'][i]['seed']: result['runs'][i]['metrics'][metric]
            for i in row['runs']
        }
        for row in result['rows']
    }
    plain, table = next(iter(values)), read_table(heading)
    compared = compare(values, plain)
    assert len(table) == len(values) == 9
    for row, cells in table.items():
        v = [*values[plain if row == 'plain' else row].values()]
        assert cells[0] == f'{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}'
        if row != 'plain':
            assert cells[1:] == format_comparison(compared[row])
