"""The time budget of the GPU report."""

import json
import time
from contextlib import suppress

import pytest
import torch

from benchmarks import gpu_report
from benchmarks.gpu_report import ReportPart
from ra_mm.errors import UserError


def write_report(out, parts, commit='a', **kwargs):
    environment = dict(gpu=None, torch='2', commit=commit)
    return gpu_report.write_gpu_report(
        out, parts, 10, environment, lambda text: None, **kwargs
    )


def test_gpu_report_within_its_budget(tmp_path):
    """What does not fit is skipped, what fails is recorded, the rest runs."""

    def failing(progress, left):
        yield dict(a=1)
        raise RuntimeError('kernel image')

    def endless(progress, left):
        start = time.monotonic()
        while time.monotonic() - start < 10:  # 0.2 s are allowed
            with suppress(Exception):  # as compilers do
                for _ in range(1000):
                    progress('still there')
        yield dict(a=2)

    parts = [
        ReportPart('failing', 1, failing),
        ReportPart('too long', 1000, failing),
        ReportPart('endless', -29.9, endless),  # stopped after 60 s and twice this
        ReportPart('short', 1, lambda progress, left: iter([dict(b=2)])),
    ]
    out = tmp_path / 'report.json'
    report = write_report(out, parts)
    assert json.loads(out.read_text()) == report
    assert [(p['status'], p['results']) for p in report['parts']] == [
        ('failed', [dict(a=1)]),
        ('skipped', []),
        ('failed', []),
        ('done', [dict(b=2)]),
    ]
    reasons = [p.get('reason', '') for p in report['parts']]
    assert reasons[0] == 'RuntimeError: kernel image'
    assert '1000 s' in reasons[1] and reasons[2].startswith('OutOfTime')


def test_error_that_stays_in_the_process(tmp_path, monkeypatch):
    """Freeing the memory fails too; the report goes on and is complete."""

    def fail(*_):
        raise RuntimeError('CUDA error: an illegal memory access was encountered')

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'empty_cache', fail)
    out = tmp_path / 'report.json'
    write_report(out, [ReportPart('first', 1, fail), ReportPart('second', 1, fail)])
    statuses = [p['status'] for p in json.loads(out.read_text())['parts']]
    assert statuses == ['failed', 'failed']


def test_resumed_report(tmp_path):
    """Finished parts are kept, the others run; another commit is refused."""

    def results(progress, left):
        yield dict(run=len(runs))
        runs.append(left)
        if len(runs) == 2:
            raise RuntimeError

    runs = []
    parts = [ReportPart('first', 1, results), ReportPart('second', 1, results)]
    out = tmp_path / 'report.json'
    earlier = write_report(out, parts)
    report = write_report(out, parts, earlier=earlier)
    assert [p['status'] for p in report['parts']] == ['done', 'done']
    assert [p['results'] for p in report['parts']] == [[dict(run=0)], [dict(run=2)]]
    with pytest.raises(UserError, match='commit a'):
        write_report(out, parts, commit='b', earlier=earlier)
