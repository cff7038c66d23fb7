"""Tables and pictures of given times."""

import pytest

from benchmarks.cost_plots import plot_costs
from benchmarks.cost_tables import cost_table, report_tables

SETTINGS = dict(what='train', model='resnet18', device='cpu', precision='fp32')
SETTINGS |= dict(layout='nchw', batch=2, size=32)


def result(variant, pairs, peak=None, saved=None, paper=None):
    result = dict(variant=variant, pairs_ms=pairs, peak_bytes=peak)
    return result | dict(saved_bytes=saved, paper_ratio=paper)


def results(**kwargs):
    """Results of a machine that became four times slower in the middle."""
    plain = [[t, t] for t in (10, 10, 40, 40, 40)]
    ra = [[10, 11], [10, 12], [40, 52], [40, 40], [40, 60]]
    found = [
        result('plain', plain, 2_000_000, 1_000_000),
        result('ra-fused', ra, 3_000_000, 1_070_000, 1.26),
    ]
    return SETTINGS | kwargs | dict(rounds=5, number=3, results=found)


def document(*measurements, sweep=False):
    return dict(
        environment=dict(cpu='A', gpu=None, torch='2', threads=1),
        sweep=sweep,
        measurements=list(measurements),
    )


def test_table():
    """The ratio is the median of ratios, not the ratio of medians."""
    found = results()
    lines = cost_table(found).splitlines()
    assert lines[0] == ('train resnet18, cpu fp32 nchw, 2 x 32 px, 5 rounds of 3')
    assert lines[-2:] == [
        '| plain | 40 | 1.000 [1.000, 1.000] | 2.0 | 1.000 | 1.0 | 1.000 |  |',
        '| ra-fused | 40 | 1.200 [1.100, 1.300] | 3.0 | 1.500 | 1.1 | 1.070 | 1.26 |',
    ]
    found['results'][0]['peak_bytes'] = found['results'][1]['saved_bytes'] = None
    last = cost_table(found).splitlines()[-1]
    assert last == '| ra-fused | 40 | 1.200 [1.100, 1.300] | 3.0 |  |  |  | 1.26 |'


def test_bars():
    times, saved = plot_costs(document(results(), results(layout='nhwc'))).axes[:2]
    (bar,) = times.patches
    assert bar.get_width() == pytest.approx(1.2)
    _, spread, printed = times.lines
    assert spread.get_xdata() == pytest.approx([1.1, 1.3])
    assert printed.get_xdata() == [1.26]
    assert [bar.get_width() for bar in saved.patches] == [1.07]


def test_sweep_picture():
    """Each panel has the points that differ only in its own value."""
    others = [dict(model='resnet101'), dict(size=64), dict(size=128), dict(batch=16)]
    data = document(results(), *(results(**other) for other in others), sweep=True)
    size, batch, model = plot_costs(data).axes
    for ax, expected in (
        (size, ['32', '64', '128']),
        (batch, ['2', '16']),
        (model, ['resnet18', 'resnet101']),
    ):
        line = ax.lines[0]
        assert list(line.get_xdata()) == expected
        assert line.get_ydata() == pytest.approx([1.2] * len(expected))


def test_report_tables():
    """The largest error of each path and dtype, and what was left out."""
    exactness = [
        dict(path='fused', dtype='bf16', errors=dict(y=dict(norm=norm)))
        for norm in (1e-3, 3e-3, 2e-3)
    ]
    skipped = dict(library='mmcv', skipped='no module')
    report = dict(
        environment=dict(gpu='H', torch='2'),
        parts=[
            dict(name='a', status='done', seconds=3, results=exactness),
            dict(name='b', status='failed', reason='why', seconds=1, results=[]),
            dict(name='c', status='done', seconds=1, results=[results(), skipped]),
        ],
    )
    text = report_tables(report)
    assert text.startswith('gpu H, torch 2\n')
    assert '| fused | bf16 | 3.0e-03 |' in text
    assert '## b (failed, 1 s): why' in text
    assert cost_table(results()) in text and 'no module' in text
    report['parts'][0]['results'].append(
        dict(path='fused', dtype='bf16', errors=dict(y=dict(norm=float('nan'))))
    )
    assert '| fused | bf16 | nan |' in report_tables(report)
