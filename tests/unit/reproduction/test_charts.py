import base64

import cv2
import numpy as np

from reproduction.charts import draw_panels, make_charts, make_panels
from reproduction.tables import make_table


def panels_of(ledger, group='ResNet18', metric='top1'):
    rows = [row for row in ledger.rows if row.group == group]
    return {panel.key: panel for panel in make_panels(ledger, rows, metric)}


def axes_of(panel, names=('ResNet18', '+SE', '+CBAM', '+RA')):
    figure = draw_panels([panel], list(names))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(names)
    return figure.axes[0]


def test_mean_of_the_seeds_and_their_band(make_ledger, add_curves):
    panels = panels_of(add_curves(make_ledger(8, seeds=2)))
    assert list(panels) == ['loss', 'val/top1', 'temp', 'G']
    # Seed 1 was stopped early and is higher by 1; the mean covers what both have.
    (first, second), *_ = (row for row in panels['loss'].curves if row)
    ax = axes_of(panels['loss'])
    (mean,) = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose(mean, np.array(first[:4]) + [0, 0.5])
    assert len(second) == 4
    y = ax.collections[0].get_paths()[0].vertices[:, 1]
    values = np.array(first[:4])[:, 1]
    np.testing.assert_allclose([y.min(), y.max()], [values.min(), values.max() + 1])
    # Values that are not numbers are left out.
    assert [len(curve) for row in panels['val/top1'].curves for curve in row] == [2, 2]


def test_band_of_the_gates(make_ledger, add_curves):
    ledger = add_curves(make_ledger(8))
    ax = axes_of(panels_of(ledger)['G'])
    _, layer1, layer2 = ax.lines  # after the line at 1
    np.testing.assert_allclose(layer1.get_ydata(), 1 + layer1.get_xdata() / 100)
    np.testing.assert_allclose(layer2.get_ydata(), 1)
    (band,) = ax.collections  # layer2 has no deviations
    y = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([y.min(), y.max()], [1.0, 1.6])


def test_diverged_loss_leaves_the_others_readable(make_ledger, make_entry):
    ledger = make_ledger(8)
    for name, last in (('r18', 1.0), ('ra_r18', 1e6)):
        curves = dict(loss=[[1, 7.0], [2, last]])
        ledger.runs[f'{name}-seed0'] = make_entry(curves=curves)
    assert axes_of(panels_of(ledger)['loss']).get_yscale() == 'log'
    ledger.runs['ra_r18-seed0'].curves['loss'][1][1] = 2.0
    assert axes_of(panels_of(ledger)['loss']).get_yscale() == 'linear'


def test_seeds_without_a_common_step(make_ledger, make_entry):
    ledger = make_ledger(8, seeds=2)
    for seed in (0, 1):
        curves = dict(loss=[[10 + seed, 7.0], [20 + seed, 6.0]])
        ledger.runs[f'r18-seed{seed}'] = make_entry(seed, curves=curves)
    (line,) = axes_of(panels_of(ledger)['loss']).lines
    np.testing.assert_allclose(line.get_ydata(), [7, 6.05])


def test_gates_of_the_first_seed(make_ledger, add_curves):
    ledger = add_curves(make_ledger(6, seeds=2))
    table = make_table(ledger, ledger.rows)
    charts = [c for c in make_charts(ledger, table) if 'image/png' in c.source]
    assert [chart.text.partition(':')[0] for chart in charts] == 2 * ['ra_r18-seed0']
    for chart in charts:
        data = np.frombuffer(base64.b64decode(chart.source.split(',')[1]), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert min(image.shape[:2]) > 100 and image.std() > 5
