"""ra_mm.Converted in configs of the toolboxes."""

import importlib

import mmdet.models
import mmpretrain.models
import pytest
import torch
from mmengine import ConfigDict
from mmengine.registry import MODELS, init_default_scope

from ra_mm.backbones import RAResNet
from ra_mm.conversion import AttentionBlock
from ra_mm.errors import UserError
from ra_mm.layers import SE, ReverseAttention
from ra_mm.ops import force_path

RESNET = dict(depth=18, base_channels=8, stem_channels=8)


def build(scope='mmengine', **kwargs):
    registry = importlib.import_module(f'{scope}.registry').MODELS
    return registry.build(ConfigDict(type='ra_mm.Converted', **kwargs))


def blocks(model):
    return [m for m in model.modules() if isinstance(m, AttentionBlock)]


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_is_the_backbone_itself(scope):
    model = build(scope, backbone=dict(type='mmpretrain.ResNet', **RESNET))
    assert isinstance(model, mmpretrain.models.ResNet)
    assert len(blocks(model)) == 8
    assert list(model.state_dict()) == list(RAResNet(**RESNET).state_dict())


def test_in_the_default_scope():
    """The toolboxes' own configs have no scope before their types."""
    init_default_scope('mmdet')
    model = build('mmdet', backbone=dict(type='ResNet', depth=18, base_channels=8))
    assert isinstance(model, mmdet.models.ResNet)


def test_arguments_of_a_base_config():
    """What a base config says of its backbone becomes the backbone's."""
    backbone = dict(type='mmpretrain.ResNet', depth=18)
    model = build(depth=50, base_channels=8, stem_channels=8, backbone=backbone)
    assert model.depth == 18 and model.base_channels == 8


def test_blocks_without_a_rule():
    model = build(
        backbone=dict(
            type='mmpretrain.ConvMixer',
            arch=dict(embed_dims=8, depth=2, patch_size=2, kernel_size=3),
        ),
        blocks='Residual',
    )
    assert len(blocks(model)) == 2


def test_attention_and_names():
    model = build(
        backbone=dict(type='mmpretrain.ResNet', **RESNET),
        attention=dict(type='ra_mm.SE'),
        names=['layer3', 'layer4'],
        skip='*.0',
    )
    names = [n for n, m in model.named_modules() if isinstance(m, SE)]
    assert names == ['layer3.1.attention', 'layer4.1.attention']


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(backbone=dict(depth=18)), 'backbone='),
        (dict(backbone=dict(type='mmpretrain.VGG', depth=11)), 'VGG has no.* residual'),
        (dict(backbone=dict(type='mmpretrain.ResNet', **RESNET), names='x'), "'x'"),
    ],
)
def test_wrong_config(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize('wrapped', ['mmpretrain', 'mmdet', 'mmseg'])
def test_own_weights_and_frozen_stages(wrapped, tmp_path, randomise):
    """Its init_cfg loads plain weights; gates of frozen stages are frozen."""
    cfg = dict(type=f'{wrapped}.ResNet', depth=18, base_channels=8)
    plain = randomise(MODELS.build(dict(cfg)))
    torch.save(plain.state_dict(), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    model = build(backbone=dict(cfg, frozen_stages=1, init_cfg=init_cfg))
    model.init_weights()
    for mode in (True, False):
        model.train(mode)
        plain.train(mode)
        x = torch.randn(2, 3, 64, 64)
        frozen = {
            n
            for n, m in model.named_modules()
            if isinstance(m, ReverseAttention) and not m.gate.gamma.requires_grad
        }
        assert frozen == {'layer1.0.attention', 'layer1.1.attention'}
    with force_path('reference'):
        assert torch.equal(model(x)[-1], plain(x)[-1])


def test_weights_of_another_model(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'a.weight': torch.ones(1)}, path)
    init_cfg = [dict(type='Pretrained', checkpoint=str(path))]
    cfg = dict(type='mmpretrain.RegNet', arch='regnetx_400mf', init_cfg=init_cfg)
    with pytest.raises(UserError, match='a.pth.*missing') as e:
        build(backbone=cfg).init_weights()
    assert 'prefix' not in str(e.value)


@pytest.mark.parametrize(
    'name, value',
    [
        ('layer3.0.conv1.weight', None),
        ('layer3.0.bn1.running_var', None),
        ('layer3.0.conv1.weight', torch.ones(1)),
        ('layer3.0.conv1.weight', torch.ones(32, 16, 3, 3, dtype=torch.int8)),
        ('layer3.7.conv1.weight', torch.ones(1)),
        ('layer3.0.attention.gate.gamma', torch.ones(32)),  # and no other
    ],
)
def test_weights_of_which_some_fit(tmp_path, name, value):
    """As for the RA backbones; classifiers may be there."""
    cfg = dict(type='mmpretrain.ResNet', **RESNET)
    state = {**MODELS.build(dict(cfg)).state_dict(), 'fc.bias': torch.ones(1)}
    path = tmp_path / 'a.pth'
    torch.save(state, path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = build(backbone=cfg, init_cfg=init_cfg)
    model.init_weights()
    state.pop(name, None)
    model.load_state_dict(state, strict=False)  # is for others to judge
    torch.save(state if value is None else {**state, name: value}, path)
    with pytest.raises(UserError, match='a.pth.*(layer3|gamma)'):
        build(backbone=cfg, init_cfg=init_cfg).init_weights()


@pytest.mark.parametrize(
    'has_weights, attention, message',
    [
        (True, 'SE', r'unexpected.*gate\.gamma'),
        (True, 'StaticGate', r'missing.*gate\.variant'),
        (False, 'SE', 'holds no weights'),
    ],
)
def test_weights_that_leave_something_out(tmp_path, has_weights, attention, message):
    """The gates, or all: the file's first place for weights is empty."""
    state = RAResNet(**RESNET).state_dict() if has_weights else {}
    torch.save(dict(state_dict=state, ema={}), path := tmp_path / 'a.pth')
    cfg = dict(type='mmpretrain.ResNet', **RESNET)
    cfg['init_cfg'] = dict(type='Pretrained', checkpoint=str(path))
    with pytest.raises(UserError, match=message):
        build(backbone=cfg, attention=dict(type=f'ra_mm.{attention}')).init_weights()


def test_norms_of_outputs_that_no_pretraining_has(tmp_path):
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 8, 8, 8])
    cfg = dict(type='mmpretrain.ConvNeXt', arch=arch, gap_before_final_norm=False)
    weights = MODELS.build(dict(cfg)).state_dict()  # with the last norm alone
    torch.save(
        {f'backbone.{k}': v for k, v in weights.items()}, path := tmp_path / 'a.pth'
    )
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = build(backbone=dict(cfg, out_indices=[0, 1, 2, 3], init_cfg=init_cfg))
    model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())


def test_weights_that_no_pretraining_has(tmp_path):
    cfg = dict(type='mmdet.ResNet', depth=50, base_channels=8)
    torch.save(MODELS.build(dict(cfg)).state_dict(), tmp_path / 'a.pth')
    plugin = dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    build(backbone=dict(cfg, plugins=[plugin], init_cfg=init_cfg)).init_weights()


def test_loading_a_whole_model():
    """A load of a detector, of whose backbone it has nothing, is for others to judge."""
    model = torch.nn.ModuleDict(
        dict(backbone=build(backbone=dict(type='mmpretrain.ResNet', **RESNET)))
    )
    found = model.load_state_dict({'neck.weight': torch.ones(1)}, strict=False)
    assert 'backbone.conv1.weight' in found.missing_keys
