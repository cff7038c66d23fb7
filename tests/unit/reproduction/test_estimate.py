"""The cost of a plan, computed again here."""

import pytest

from ra_mm.errors import UserError
from reproduction import estimate
from reproduction.ledger import Ledger
from reproduction.plan import Setting, make_plan, select_rows


def test_cost_of_a_table(tmp_path, monkeypatch, capsys):
    resnet50 = 25.6, 4.12
    monkeypatch.setattr(estimate, 'count_config', lambda *_: resnet50)
    monkeypatch.setattr(estimate, 'measure_loading', lambda _: 100.0)
    rows = select_rows(['table4'], ['Faster R-CNN, Baseline'])
    plan = make_plan(rows, 2)
    setting = Setting('full', tmp_path, gpus=8, launcher='pytorch')
    ledger = Ledger(tmp_path)
    ledger.request(setting, rows, 2, plan)
    estimates = estimate.estimate_plan(plan, setting, ledger, 'h100')
    backbone = estimates['r50-seed0']
    # A step with 256 images takes 260 ms in benchmarks/results.
    expected = 100 * 1_281_167 / 256 * 0.26 / 3600
    assert backbone.hours == pytest.approx(expected, rel=0.01)
    assert backbone.disk_gb == pytest.approx(3 * 2 * 4 * 25.6e6 / 1e9)
    estimate.print_plan(plan, estimates, setting)
    printed = capsys.readouterr().out
    detector = estimates['faster_rcnn_r50-seed1'].hours
    assert f'{2 * (backbone.hours + detector):.3g} GPU-hours' in printed
    assert f'{(backbone.hours + detector) / 8:.3g} hours on 8 GPUs' in printed
    monkeypatch.setattr(estimate, 'measure_loading', lambda _: 10.0)
    slow = estimate.estimate_plan(plan, setting, ledger, 'h100')['r50-seed0']
    # 16 workers a GPU
    assert slow.hours == pytest.approx(100 * 1_281_167 / (10 * 16) / 3600)

    ledger.runs['r50-seed0'].status, ledger.runs['r50-seed0'].wall_s = 'done', 7200
    estimates = estimate.estimate_plan(plan, setting, ledger, 'h100')
    assert 'r50-seed0' not in estimates and estimates['r50-seed1'].hours == 16
    with pytest.raises(UserError, match='V100.*H100'):
        estimate.estimate_plan(plan, setting, ledger, 'V100')
