"""Which operators of mmcv are compared with torchvision's."""

import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
from torchvision import ops

from benchmarks.cost_tables import report_tables
from benchmarks.operator_check import operator_errors


@pytest.fixture
def mmcv(monkeypatch):
    """Pretend that mmcv's operators are in this file, and compute this."""

    def pretend(file, nms, roi_align):
        ext = SimpleNamespace(__spec__=ModuleSpec('mmcv._ext', None, origin=file))
        monkeypatch.setitem(sys.modules, 'mmcv._ext', ext)
        operators = SimpleNamespace(nms=nms, roi_align=roi_align)
        monkeypatch.setitem(sys.modules, 'mmcv.ops', operators)

    return pretend


def results():
    found = list(operator_errors('cpu', tiny=True, rounds=2))
    measured = [(r['operator'], r['library']) for r in found if 'skipped' not in r]
    skipped = [r['skipped'] for r in found if 'skipped' in r]
    part = dict(name='operators', status='done', seconds=1.0, results=found)
    table = report_tables(dict(environment={}, parts=[part]))
    assert all(f'skipped: {reason} |' in table for reason in skipped)
    return measured, skipped


def nms(boxes, scores, iou_threshold):
    return None, ops.nms(boxes, scores, iou_threshold)


def roi_align(features, rois, size, scale, samples, mode, aligned):
    return ops.roi_align(features, rois, size, scale, samples, aligned)


def fail(*_):
    raise RuntimeError('not compiled\nfor this device')


def test_stand_in(mmcv):
    """It is torchvision's, which is not compared with itself."""
    mmcv('mmcv/_ext.py', nms, roi_align)
    measured, skipped = results()
    assert measured == [('nms', 'torchvision'), ('roi_align', 'torchvision')]
    assert len(skipped) == 1


@pytest.mark.parametrize(
    'operators, failed',
    [
        ((nms, roi_align), []),
        ((fail, roi_align), ['nms']),
        ((nms, fail), ['roi_align']),
    ],
)
def test_operators_for_another_device(mmcv, operators, failed):
    """Those that fail are skipped, the others are measured."""
    mmcv('mmcv/_ext.so', *operators)
    measured, skipped = results()
    assert measured == [
        (name, library)
        for name in ('nms', 'roi_align')
        for library in ('torchvision', 'mmcv')
        if not (library == 'mmcv' and name in failed)
    ]
    assert [reason.partition(':')[0] for reason in skipped] == failed
    assert all('not compiled' in reason for reason in skipped)
