"""The tables in docs/measurements.md agree with benchmarks/results."""

import re
from pathlib import Path

import pytest

from benchmarks.cost_tables import compare_with_plain
from benchmarks.recording import read_results

REPO = Path(__file__).parents[2]
SECTIONS = (REPO / 'docs/measurements.md').read_text().split('\n## ')
VARIANTS = {
    'SE': 'se',
    'CBAM': 'cbam',
    'SimAM': 'simam',
    'RA, chosen': 'ra',
    'RA, default': 'ra',
}
VARIANTS |= {'RA, fused': 'ra-fused', 'RA, compiled tails': 'ra-compiled'}
VARIANTS['RA, reference'] = 'ra-naive'


@pytest.mark.parametrize(
    'heading, name',
    [('A training step on a CPU', 'cpu_train'), ('Inference on a CPU', 'cpu_infer')],
)
def test_ratios(heading, name):
    (section,) = (s for s in SECTIONS if s.startswith(heading))
    rows = re.findall(r'^\| ([\w, ]+) \| (\S+ \[.*?) \| (\S+ \[.*?) \|', section, re.M)
    rows = {row: cells for row, *cells in rows if row in VARIANTS}
    assert len(rows) >= 5
    measured = read_results(REPO / f'benchmarks/results/{name}.json')['measurements']
    assert [m['layout'] for m in measured] == ['nchw', 'nhwc']
    for row, cells in rows.items():
        for cell, m in zip(cells, measured):
            results = {r['variant']: r for r in m['results']}
            s = compare_with_plain(results[VARIANTS[row]], results['plain'])
            low, high = s['quartiles']
            assert cell == f'{s["ratio"]:.2f} [{low:.2f}, {high:.2f}]', row
