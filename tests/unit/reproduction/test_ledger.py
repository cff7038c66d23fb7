"""The ledger: what it refuses, and what stays when it cannot be written."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ra_mm.errors import UserError
from reproduction.ledger import Entry, Ledger
from reproduction.plan import Setting, make_plan, select_rows
from reproduction.user_data import DataFolder

DATA = DataFolder(Path('/d'), ('a', 'b'), (None, 'train'), (None, 'val'))


def request(ledger, setting, text='', seeds=1):
    rows = select_rows(['table9'], [text])
    ledger.request(setting, rows, seeds, make_plan(rows, seeds))


def test_requests_are_added(tmp_path):
    setting = Setting('demo', tmp_path)
    ledger = Ledger(tmp_path)
    request(ledger, setting, 'RA-ResNet50')
    ledger.runs['ra_r50-seed0'].status = 'done'
    request(ledger, setting, 'RA-ResNet18', seeds=2)
    ledger.save()
    again = Ledger.read(tmp_path)
    assert again == ledger
    # In the order of the paper.
    groups = 2 * ['RA-ResNet18'] + 2 * ['RA-ResNet50']
    assert [row.group for row in again.rows] == groups
    assert again.rows[1].runs == ['ra_r18-seed0', 'ra_r18-seed1']
    assert again.rows[1].paper == {'top1': '71.2', 'top5': '90.1'}
    assert again.seeds == 2 and again.runs['ra_r50-seed0'].status == 'done'


@pytest.mark.parametrize('text', ['{"version": 3}', '{"ver', '[]'])
def test_not_a_ledger(tmp_path, text):
    path = tmp_path / 'ledger.json'
    path.write_text(text)
    with pytest.raises(UserError, match='ledger.json'):
        Ledger.read(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    'change, expected',
    [
        (dict(scale='full'), '--scale demo, not full'),
        (dict(data=None), '--data d, not None'),
        (dict(weights=Path(__file__)), '--weights None, not test_ledger.py'),
        (dict(options={'a.b': (1, 3)}), '--cfg-options'),
        (dict(options={}), '--cfg-options'),
    ],
)
def test_what_is_not_mixed(tmp_path, change, expected):
    setting = Setting('demo', tmp_path, DATA, options={'a.b': (1, 2)})
    ledger = Ledger(tmp_path)
    request(ledger, setting)
    ledger.save()
    elsewhere = replace(setting, data=replace(DATA, root=Path('/e/d')))
    request(Ledger.read(tmp_path), elsewhere)
    with pytest.raises(UserError, match=expected):
        request(Ledger.read(tmp_path), replace(setting, **change))


def test_ledger_of_the_first_version(tmp_path):
    """It had neither the options nor the start of a run."""
    run = dict(config='configs/imagenet/r18.py', seed=0, status='done', wall_s=60.0)
    row = dict(
        table=9, group='RA-ResNet18', name='with Temp', runs=['r-seed0'], paper={}
    )
    ledger = dict(version=1, scale='demo', data=None, seeds=1, rows=[row])
    path = tmp_path / 'ledger.json'
    path.write_text(json.dumps(ledger | dict(runs={'r-seed0': run})))
    ledger = Ledger.read(tmp_path)
    request(ledger, Setting('demo', tmp_path))
    ledger.save()
    ledger = Ledger.read(tmp_path)
    assert ledger.runs['r-seed0'].wall_s == 60
    assert 'r-seed0' in ledger.rows[1].runs


def test_many_writers(tmp_path):
    """A run that is saved by another process is not lost when a request is saved."""
    ledger = Ledger(tmp_path)
    request(ledger, Setting('demo', tmp_path))
    ledger.save()
    other = Ledger.read(tmp_path)
    other.runs['ra_r50-seed0'].status = 'done'
    other.save_run('ra_r50-seed0')
    ledger.runs['ra_r18-seed0'].status = 'failed'
    ledger.save_run('ra_r18-seed0')
    ledger.save()
    # What a process that was killed had begun to write is no entry.
    (tmp_path / 'entries/.r18-seed0.json.part').write_text('{"con')
    states = {name: e.status for name, e in Ledger.read(tmp_path).runs.items()}
    assert states['ra_r50-seed0'] == 'done' and states['ra_r18-seed0'] == 'failed'


def test_full_disk(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path, runs={'r18-seed0': Entry('configs/some.py', 0)})
    ledger.save()

    def fsync(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(UserError, match='ledger.json .*No space left on device'):
        Ledger(tmp_path).save()
    assert Ledger.read(tmp_path) == ledger
    with pytest.raises(UserError, match='r18-seed0.json .*No space left on device'):
        ledger.save_run('r18-seed0')
    assert Ledger.read(tmp_path) == ledger
    assert {p.name for p in tmp_path.rglob('*.*')} == {'ledger.json', 'r18-seed0.json'}
