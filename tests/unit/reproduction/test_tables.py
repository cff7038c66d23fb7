"""The numbers of the report's tables, computed again here."""

import numpy as np

from reproduction.tables import make_table


def cells(ledger, name):
    """The texts of a row of the ledger's first table, by name."""
    number = ledger.rows[0].table
    table = make_table(ledger, [row for row in ledger.rows if row.table == number])
    columns = next(columns for row, columns in table.rows if row.name == name)
    lengths = [len(subheadings) for _, subheadings in table.columns]
    assert [*map(len, columns)] == lengths
    return [f'{cell.text} {cell.small}'.strip() for cells in columns for cell in cells]


def readings(ledger):
    return make_table(ledger, ledger.rows).readings


def test_numbers(trained_ledger):
    top1 = np.array([71.0, 71.9, 71.2])
    assert cells(trained_ledger, '+RA') == [
        *('11.69', '11.69', '+0.00'),
        *('1.824', '1.821', '−0.003'),
        '71.2',
        f'{top1.mean():.2f} ±{top1.std(ddof=1):.2f}',
        f'{top1.mean() - 71.2:+.2f}',
        '90.1',
        f'{top1.mean() + 20:.2f} ±{top1.std(ddof=1):.2f}',
        f'{top1.mean() + 20 - 90.1:+.2f}',
        f'×{12.7 / 12.4:.2f} 12.7 h',
        f'×{13 / 11:.2f} 13.0 h',
        '3 of 3',
    ]


def test_comparison_of_the_seeds(trained_ledger, make_entry):
    texts = readings(trained_ledger)
    (text,) = (text for text in texts if '+RA' in text)
    # The differences are 1.6, 1.8 and 0.9.
    assert '+RA − ResNet18 = +1.43 (paper: +1.0)' in text
    assert '3 of 3 seeds' in text and '+0.26 to +2.61' in text
    assert sum('no finished seed' in text for text in texts) == 2  # SE and CBAM
    trained_ledger.runs['ra_r18-seed1'] = make_entry(1, 'waiting')
    (text,) = (text for text in readings(trained_ledger) if '+RA' in text)
    assert '2 of 2 seeds' in text and '= +1.25' in text
    trained_ledger.runs['r18-seed2'] = make_entry(2, 'waiting')
    (text,) = (text for text in readings(trained_ledger) if '+RA' in text)
    assert 'One seed' in text and 'interval' not in text


def test_missing_numbers_say_why(make_ledger, make_entry):
    ledger = make_ledger(4, seeds=2)
    ledger.runs |= {
        'faster_rcnn_se_r50-seed0': make_entry(0, 'failed'),
        'faster_rcnn_cbam_r50-seed1': make_entry(1, 'running'),
        'faster_rcnn_ra_r50-seed0': make_entry(metrics=dict(AP=39.0)),
        'faster_rcnn_ra_r50-seed1': make_entry(1, 'failed'),
    }
    baseline = cells(ledger, 'Baseline')
    assert baseline[:3] == ['43.58', 'not run', '–']
    assert baseline.count('not run') == 7
    assert cells(ledger, '+SE').count('failed') == 7
    assert cells(ledger, '+CBAM').count('running') == 7
    ra = cells(ledger, '+RA')
    assert ra[-1] == '1 of 2, 1 failed'
    assert ra[6:9] == ['39.2', '39.00', '−0.20']  # one seed: no spread
    assert ra[9:12] == ['60.4', '–', '–']  # done, but without AP50


def test_hours_need_the_baseline_on_the_same_hardware(trained_ledger):
    trained_ledger.runs['ra_r18-seed2'].hardware = dict(device='Other GPU', count=2)
    ra = cells(trained_ledger, '+RA')
    assert ra[12:14] == ['×1.02 12.7 h', '– 13.0 h']
    assert ra[-1] == '2 × Other GPU, 2 × Test GPU'
    trained_ledger.rows = trained_ledger.rows[3:]  # --rows +RA
    assert cells(trained_ledger, '+RA')[12:14] == ['– 12.7 h', '– 13.0 h']
    assert not readings(trained_ledger)


def test_demo_shows_no_difference(trained_ledger):
    trained_ledger.scale = 'demo'
    ra = cells(trained_ledger, '+RA')
    assert ra[4] == '71.37 ±0.47' and ra[5] == '71.2'
    assert not readings(trained_ledger)


def test_own_data_is_compared_with_the_baseline(trained_ledger, make_entry):
    trained_ledger.data = '/home/me/cells'
    for row in trained_ledger.rows:
        row.paper, row.misprints = {}, {}
    trained_ledger.runs['se_r18-seed0'] = make_entry(metrics=dict(top1=69.9333))
    # The columns: params, FLOPs, top-1, top-5, hours.
    assert cells(trained_ledger, 'ResNet18')[2:4] == ['69.93 ±0.47', '–']
    assert cells(trained_ledger, '+RA')[2:4] == ['71.37 ±0.47', '+1.43']
    assert cells(trained_ledger, '+SE')[2:4] == ['69.93', '+0.00']
    assert cells(trained_ledger, '+CBAM')[2] == 'not run'
    texts = readings(trained_ledger)
    # SE has one seed, the only one that all three can be compared by.
    assert [text.count('One seed') for text in texts] == [1, 0, 1]
    assert '+SE − ResNet18 = +0.53' in texts[0]
