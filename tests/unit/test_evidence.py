"""The tables in docs/evidence.md agree with benchmarks/results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from reproduction.comparison import compare

REPO = Path(__file__).parents[2]
TEXT = (REPO / 'docs/evidence.md').read_text(encoding='utf-8').replace('−', '-')


def read(name, heading):
    """The result's runs by row, and the cells of the table below a heading."""
    result = json.loads((REPO / 'benchmarks/results' / name).read_text())
    runs = {
        row['name'].removeprefix('+'): [
            run for i in row['runs'] if (run := result['runs'][i])['status'] == 'done'
        ]
        for row in result['rows']
    }
    _, _, section = TEXT.partition(f'# {heading}\n')
    table = re.search(r'(^\|.*\n)+', section, re.M)[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table]
    return runs, {name: cells for name, *cells in rows}


@pytest.mark.parametrize(
    'heading, name, metric',
    [
        ('BCCD: detection', 'bccd_comparison', 'AP'),
        ('CIFAR-10: classification', 'cifar10_comparison', 'top1'),
    ],
)
def test_comparison(heading, name, metric):
    runs, table = read(f'{name}.json', heading)
    plain = next(iter(runs))
    values = {k: {r['seed']: r['metrics'][metric] for r in v} for k, v in runs.items()}
    compared = compare(values, plain)
    assert len(table) == len(values) == 9
    for row, cells in table.items():
        v = [*values[plain if row == 'plain' else row].values()]
        assert cells[0] == f'{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}'
        if row != 'plain':
            d, (low, high), p, corrected = compared[row]
            assert cells[1:] == [
                f'{d.mean():+.2f}',
                f'{low:+.2f} to {high:+.2f}',
                f'{(d > 0).sum()} of {len(d)}',
                f'{p:.3f}',
                f'{corrected:.3f}',
            ]
