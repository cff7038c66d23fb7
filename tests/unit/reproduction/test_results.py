import json

import pytest
from mmengine.config import Config

from reproduction.ledger import Entry
from reproduction.results import find_gpu, fraction_done, record_results


def test_long_curves_are_thinned(tmp_path):
    log = tmp_path / 'start/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    entries = [
        dict(step=i, loss=float(i), lr=0.1, G_layer1_mean=1.0, time=2.0)
        for i in range(1, 1000)
    ]
    log.write_text('\n'.join(map(json.dumps, entries)))
    cfg = Config(dict(default_scope='mmseg', train_cfg=dict(max_iters=999)))
    entry = Entry('configs/some.py', 0)
    record_results(entry, tmp_path, cfg)
    assert set(entry.curves) == {'loss', 'lr', 'G_layer1_mean'}
    steps = [step for step, _ in entry.curves['loss']]
    assert 200 < len(steps) <= 300 and steps[-1] == 999


@pytest.mark.parametrize(
    'line, expected',
    [
        ('Epoch(train)   [3][ 50/100]  lr: 1', 0.25),
        ('Iter(train) [ 40/200]  lr: 1', 0.2),
        ('nothing yet', 0),
    ],
)
def test_fraction_done(tmp_path, line, expected):
    log = tmp_path / 'train.log'
    log.write_text(f'Epoch(train) [1][10/100]\n{line}\n' if expected else line)
    assert fraction_done(log, Config(dict(train_cfg=dict(max_epochs=10)))) == expected


def test_gpu_is_the_one_that_mmengine_logs(tmp_path):
    log = tmp_path / 'train.log'
    log.write_text('    GPU 0,1: Some GPU\n    CUDA_HOME: None\n')
    assert find_gpu(log) == 'Some GPU'
    log.write_text('    CUDA available: False\n')
    assert find_gpu(log) is None
