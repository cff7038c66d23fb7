"""The configs that the README shows, and the base models that it promises."""

import re
import textwrap
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ra_mm.reproduce import paper

README = (paper.CONFIGS.parent / 'README.md').read_text()
SECTION = re.search('## Use it in your own config\n(.*?)\n## ', README, re.S)[1]
# Two configs, each with a comment as its first line.
OWN = re.split(
    r'\n\n(?=#)',
    textwrap.dedent(''.join(re.findall(r'^(?:    .*)?\n', SECTION, re.M))).strip(),
)
MODELS_OF_MMSEG = sorted(
    path.name
    for path in Path(mmseg.__path__[0]).glob('.mim/configs/_base_/models/*.py')
    if "backbone=dict(\n        type='ResNetV1c'" in path.read_text()
)


@pytest.mark.parametrize('text', OWN, ids=['mmdet', 'mmseg'])
def test_configs_of_the_readme(text, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    checked = cfg.model.backbone.init_cfg.checkpoint
    assert 'resnet50' in checked
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.backbone.train()
    out = model.backbone(torch.randn(2, 3, 32, 32))
    assert [f.shape[1] for f in out] == [256, 512, 1024, 2048]
    (hook,) = cfg.custom_hooks
    assert hook.type == 'ra_mm.TempAnnealingHook'


def test_models_of_mmseg_are_found():
    """The README states how many there are."""
    assert f'all {len(MODELS_OF_MMSEG)} base models' in README


@pytest.mark.parametrize('name', MODELS_OF_MMSEG)
def test_inherited_from_mmseg(name, tmp_path):
    """RA takes every option: dilations, one output or several, and so on."""
    path = tmp_path / 'own.py'
    (base,) = re.findall(r"/.mim/configs/(\S+)'", OWN[1])
    path.write_text(OWN[1].replace(base, f'_base_/models/{name}'))
    cfg = Config.fromfile(path)
    ours = dict(cfg.model.backbone, init_cfg=None, depth=18)
    theirs = dict(ours, type='mmseg.ResNetV1c')
    del theirs['deep_stem']
    x = torch.randn(1, 3, 64, 64)
    shapes = []
    for backbone in (ours, theirs):
        model = MODELS.build(backbone)
        model.eval()
        shapes.append([y.shape for y in model(x)])
    assert shapes[0] == shapes[1]
