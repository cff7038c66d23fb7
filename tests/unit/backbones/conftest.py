"""Small backbones of each family."""

import pytest
import torch
from mmengine.registry import MODELS

import ra_mm.backbones
from ra_mm.layers import ResidualSum

SMALL = dict(
    RAResNet=dict(depth=18, base_channels=4, stem_channels=4),
    RAResNeXt=dict(
        depth=50, base_channels=4, stem_channels=4, groups=2, width_per_group=2
    ),
    RAMobileNetV2=dict(widen_factor=0.1),
)


def _build(family, **kwargs):
    return getattr(ra_mm.backbones, family)(**{**SMALL[family], **kwargs})


@pytest.fixture(scope='session')
def small():
    """The arguments of a small backbone by family."""
    return SMALL


@pytest.fixture(scope='session')
def build():
    """Builds a small backbone of a family."""
    return _build


@pytest.fixture(scope='session')
def attentions():
    """Lists the attentions of a model."""
    return lambda model: [m for m in model.modules() if isinstance(m, ResidualSum)]


@pytest.fixture
def pretrained(tmp_path):
    """Builds a backbone of ra_mm, in eval mode, from a checkpoint that it saves."""

    def build(type, checkpoint, **kwargs):
        torch.save(checkpoint, tmp_path / 'a.pth')
        cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
        model = MODELS.build(dict(type=f'ra_mm.{type}', init_cfg=cfg, **kwargs))
        model.init_weights()
        return model.eval()

    return build
