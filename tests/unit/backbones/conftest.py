import pytest
import torch
from mmengine.registry import MODELS


def _randomise(model):
    g = torch.Generator().manual_seed(0)
    for name, t in model.state_dict().items():
        if name.endswith('running_var'):
            t.uniform_(0.5, 2, generator=g)
        elif t.ndim == 1:
            t.add_(torch.randn(t.shape, generator=g), alpha=0.1)
    return model


def _pretrained(type, path, prefix=None, **kwargs):
    cfg = dict(type='Pretrained', checkpoint=str(path))
    if prefix:
        cfg['prefix'] = prefix
    model = MODELS.build(dict(type=f'ra_mm.{type}', init_cfg=cfg, **kwargs))
    model.init_weights()
    return model.eval()


@pytest.fixture
def randomise():
    """Makes every weight and statistic tell, batch norm's included."""
    return _randomise


@pytest.fixture
def pretrained():
    """Builds a backbone of ra_mm, in eval mode, from a checkpoint."""
    return _pretrained
