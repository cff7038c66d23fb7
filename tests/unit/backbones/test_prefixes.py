"""Checkpoints of wrappers and whole models: the advised prefix works when pasted."""

import re

import mmpretrain.models  # noqa: F401, registers the backbones
import pytest
import torch
from mmengine.registry import MODELS

from ra_mm.errors import UserError

SMALL = dict(depth=18, base_channels=8, stem_channels=8)
BACKBONES = [
    dict(type='ra_mm.RAResNet', **SMALL),
    dict(type='ra_mm.RAMobileNetV2', widen_factor=0.1),
    dict(type='ra_mm.Converted', backbone=dict(type='mmpretrain.ResNet', **SMALL)),
]
PREFIXES = (
    *('', 'module.', 'model.', '_orig_mod.', 'backbone.', 'module.backbone.'),
    *('encoder.', 'encoder_q.', 'module.encoder_q.', 'visual.', 'ema.', 'teacher.'),
)


def wrap(weights, prefix):
    """The keys of a whole model that has the backbone, twice for MoCo."""
    wrapped = {f'{prefix}{name}': t for name, t in weights.items()}
    if prefix.endswith('encoder_q.'):
        prefix = prefix.replace('encoder_q', 'encoder_k')
        wrapped |= {f'{prefix}{name}': t + 1 for name, t in weights.items()}
    return {**wrapped, 'logit_scale': torch.ones(()), 'classifier.bias': torch.ones(2)}


def init(cfg, **init_cfg):
    cfg, init_cfg = dict(cfg), dict(init_cfg, type='Pretrained')
    if 'backbone' in cfg:
        cfg['backbone'] = dict(cfg['backbone'], init_cfg=init_cfg)
    else:
        cfg['init_cfg'] = init_cfg
    model = MODELS.build(cfg)
    model.init_weights()
    return model


@pytest.mark.parametrize('cfg', BACKBONES, ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('prefix', PREFIXES)
def test_prefix(cfg, prefix, tmp_path, randomise):
    weights = randomise(MODELS.build(dict(cfg))).state_dict()
    weights = {name: t for name, t in weights.items() if '.attention.' not in name}
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=wrap(weights, prefix)), path)
    try:
        model = init(cfg, checkpoint=path)
    except UserError as e:
        (advice,) = re.findall("prefix='(.*?)'", str(e))
        assert advice == prefix and path in str(e)
        model = init(cfg, checkpoint=path, prefix=advice)
    own = model.state_dict()
    assert all(torch.equal(own[name], t) for name, t in weights.items())


@pytest.mark.parametrize('cfg', BACKBONES[::2], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('place', ['model', 'model_state', 'teacher', 'state_dict_ema'])
@pytest.mark.parametrize('prefix', ['', 'encoder.', 'module.model.'])
def test_nested_weights(cfg, place, prefix, tmp_path, randomise):
    weights = randomise(MODELS.build(dict(cfg))).state_dict()
    wrapped = {f'{prefix}{name}': t for name, t in weights.items()}
    torch.save({place: wrapped, 'epoch': 3}, tmp_path / 'a.pth')
    if prefix:
        with pytest.raises(UserError, match=f"prefix='{prefix}'"):
            init(cfg, checkpoint=str(tmp_path / 'a.pth'))
    own = init(cfg, checkpoint=str(tmp_path / 'a.pth'), prefix=prefix or None)
    own = own.state_dict()
    assert all(torch.equal(own[name], t) for name, t in weights.items())


@pytest.mark.parametrize('cfg', BACKBONES[::2], ids=lambda cfg: cfg['type'])
@pytest.mark.parametrize('nested', [True, False])
def test_teacher_and_student(cfg, nested, tmp_path, randomise):
    """The user chooses, whichever way they are saved."""
    pair = {k: randomise(MODELS.build(dict(cfg))).state_dict() for k in 'ts'}
    pair = dict(teacher=pair['t'], student=pair['s'])
    flat = {f'{k}.{name}': t for k, own in pair.items() for name, t in own.items()}
    torch.save(pair if nested else flat, path := tmp_path / 'a.pth')
    with pytest.raises(UserError, match="prefix='teacher.'"):
        init(cfg, checkpoint=str(path))
    for name, weights in pair.items():
        own = init(cfg, checkpoint=str(path), prefix=f'{name}.').state_dict()
        assert torch.equal(own['conv1.weight'], weights['conv1.weight'])
