"""The time budget of the GPU report."""

import json

from ra_mm.analysis import gpu_report


def test_gpu_report_within_its_budget(tmp_path):
    """What does not fit is skipped, what fails is recorded, the rest runs."""

    def failing(progress, left):
        yield dict(a=1)
        raise RuntimeError('kernel image')

    def endless(progress, left):
        while True:
            progress('still there')

    def part(name, estimate_s, results):
        return gpu_report.Part(name, estimate_s, results)

    parts = [
        part('failing', 1, failing),
        part('too long', 1000, failing),
        part('endless', -29.9, endless),  # stopped after 60 s and twice this
        part('short', 1, lambda progress, left: iter([dict(b=2)])),
    ]
    out = tmp_path / 'report.json'
    report = gpu_report.write_report(out, parts, 10, {}, lambda text: None)
    assert json.loads(out.read_text()) == report
    found = [(p['status'], p['results']) for p in report['parts']]
    assert found == [
        ('failed', [dict(a=1)]),
        ('skipped', []),
        ('failed', []),
        ('done', [dict(b=2)]),
    ]
    reasons = [p.get('reason', '') for p in report['parts']]
    assert reasons[0] == 'RuntimeError: kernel image'
    assert '1000 s' in reasons[1] and reasons[2].startswith('TimeoutError')
