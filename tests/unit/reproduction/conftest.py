"""Ledgers to write reports from."""

import json
from pathlib import Path

import pytest
import torch

from ra_mm.analysis import gates
from ra_mm.backbones import RAResNet
from reproduction import paper
from reproduction.ledger import Entry, Ledger, RequestedRow

LOG = 'x < y && <script>alert(1)</script>\nRuntimeError: | out of `memory`'


def _make_entry(seed=0, status='done', hours=1.0, device='Test GPU', **values):
    entry = Entry('configs/some.py', seed, status=status, **values)
    if status == 'done':
        entry.wall_s = 3600 * hours
        entry.hardware = entry.hardware or dict(device=device, count=2)
        entry.versions = entry.versions or dict(torch='2.10.0')
        entry.commit = entry.commit or 'abc1234'
    entry.error = LOG if status == 'failed' else None
    return entry


def _make_ledger(*tables, seeds=1, **values):
    ledger = Ledger(Path('folder'), **{'scale': 'full', 'seeds': seeds} | values)
    for row in paper.rows(*tables):
        ids = [f'{row.config.stem}-seed{seed}' for seed in range(seeds)]
        printed = {k: str(v) for k, v in row.paper.items()}
        ledger.rows.append(
            RequestedRow(row.table, row.group, row.name, printed, row.misprints, ids)
        )
        for seed, run_id in enumerate(ids):
            ledger.runs[run_id] = _make_entry(seed, 'waiting')
    return ledger


@pytest.fixture(scope='session')
def make_entry():
    """Call it for the entry of a run in the ledger; it is done by default."""
    return _make_entry


@pytest.fixture(scope='session')
def make_ledger():
    """Call it with numbers of tables for a ledger in which no run is done."""
    return _make_ledger


@pytest.fixture
def trained_ledger():
    """Table 2 with ResNet18, plain and with RA, three seeds each."""
    ledger = _make_ledger(2, seeds=3)
    ledger.rows = ledger.rows[:4]
    top1 = {'r18': (69.4, 70.1, 70.3), 'ra_r18': (71.0, 71.9, 71.2)}
    for model, values in top1.items():
        for seed, value in enumerate(values):
            ledger.runs[f'{model}-seed{seed}'] = _make_entry(
                seed,
                params=11.6914,
                flops=1.8214,
                # Something slowed down the last seed: the medians are 11 and 13.
                hours=(10.0 if model == 'r18' else 12.0) + (0, 1, 50)[seed],
                metrics=dict(top1=value, top5=value + 20),
            )
    return ledger


@pytest.fixture(scope='session')
def measured_gates():
    torch.manual_seed(0)
    backbone = RAResNet(18, stem_channels=8, base_channels=8)
    for layer in gates.find_blocks(backbone.eval()).values():
        torch.nn.init.normal_(dict(layer.named_parameters()).popitem()[1])
    images = [(label, torch.rand(1, 3, 32, 32)) for label in ('cat', 'dog')]
    measured = gates.measure_gates(backbone, images, ['RA_2_1', 'RA_5_2'])
    return json.loads(json.dumps(measured))


@pytest.fixture
def add_curves(measured_gates):
    """Call it with a ledger to give its RA-ResNet18 curves and gates."""

    def add(ledger):
        for seed in range(ledger.seeds):
            steps = range(10, (60, 50)[seed % 2], 10)  # seed 1 was stopped early
            ledger.runs[f'ra_r18-seed{seed}'] = _make_entry(
                seed,
                metrics=dict(top1=70.0, top5=90.0),
                gates=measured_gates,
                curves={
                    'loss': [[i, 4 - 0.05 * i + seed] for i in steps],
                    'temp': [[i, 31.0 - i / 2] for i in steps],
                    'val/top1': [[1, 60.0], [2, None], [4, 70.0 + seed]],
                    'G_layer1_mean': [[i, 1 + i / 100] for i in steps],
                    'G_layer1_std': [[i, 0.1] for i in steps],
                    'G_layer2_mean': [[i, 1.0] for i in steps],
                },
            )
        return ledger

    return add
