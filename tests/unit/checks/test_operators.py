"""Models that need operators which the stand-in for mmcv's lacks."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmcv.ops import MaskedConv2d, PSAMask, RoIAlign
from mmcv.ops.carafe import CARAFEPack
from mmdet.models.task_modules import ScoreHLRSampler
from torch import nn

from ra_mm.checks.operators import COMPILED_ALONE, check_model
from ra_mm.errors import UserError
from ra_mm.mmcv_ops.operators import OPERATORS

MMCV = Path(importlib.util.find_spec('mmcv').origin).parent


def pisa():
    head = nn.Identity()
    head.bbox_sampler = object.__new__(ScoreHLRSampler)
    return head


MODULES = [
    (pisa, 'nms_match', 'Identity'),
    (lambda: CARAFEPack(4, 2), 'carafe', 'CARAFEPack'),
    (lambda: MaskedConv2d(1, 1, 3), 'masked_conv', 'MaskedConv2d'),
    (lambda: PSAMask('collect', (3, 3)), 'psa_mask', 'PSAMask'),
    (lambda: RoIAlign(7, pool_mode='max'), 'pool_mode', 'RoIAlign'),
]


@pytest.fixture
def operators(monkeypatch):
    """Let mmcv's operators be the stand-in, or compiled ones."""
    find_spec = importlib.util.find_spec

    def pretend(file):
        spec = SimpleNamespace(origin=file)
        monkeypatch.setattr(
            'importlib.util.find_spec',
            lambda name: spec if name == 'mmcv._ext' else find_spec(name),
        )

    return pretend


@pytest.mark.parametrize('build, operator, kind', MODULES)
def test_a_module_that_needs_compiled_operators(operators, build, operator, kind):
    model = nn.Sequential(nn.Sequential(nn.ReLU(), build()))
    operators('mmcv/_ext.py')
    with pytest.raises(UserError, match=rf'{operator}.* 0\.1 \({kind}\)'):
        check_model(model)
    operators('mmcv/_ext.so')
    check_model(model)


def test_a_model_that_runs_on_the_stand_in(operators):
    operators('mmcv/_ext.py')
    check_model(nn.Sequential(RoIAlign(7), nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize('name', COMPILED_ALONE)
def test_the_stand_in_has_no_operator_of_these_files(name):
    source = (MMCV / f'ops/{name}.py').read_text()
    called = set(re.findall(r'ext_module\.(\w+)', source))
    assert called and not called & OPERATORS.keys()
