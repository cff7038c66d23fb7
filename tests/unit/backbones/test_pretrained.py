"""The strict ``Pretrained`` initialization of every backbone."""

import mmpretrain.models
import pytest
import torch

from ra_mm.errors import UserError

FAMILIES = ('RAResNet', 'RAResNeXt', 'RAMobileNetV2')
RA = dict(type='ra_mm.ReverseAttention')
RIVALS = [dict(type='ra_mm.SE'), dict(type='ra_mm.CBAM')]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('attention', [RA, dict(RA, normalization='bn'), *RIVALS])
@pytest.mark.parametrize(
    'prefix, as_list', [(None, False), ('backbone.', True), ('backbone', False)]
)
def test_whole_model_weights(
    family, attention, prefix, as_list, tmp_path, randomise, build, attentions
):
    """The attention is loaded, and other initializers do not overwrite it."""
    source = randomise(build(family, attention=attention))
    for layer in attentions(source):
        if hasattr(layer, 'gate'):
            layer.gate.temp.fill_(4.0)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(10, 512)
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), tmp_path / 'a.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix=prefix)
    if as_list:
        cfg = [dict(type='Kaiming', layer='Conv2d'), cfg]
    model = build(family, attention=attention, init_cfg=cfg)
    model.init_weights()
    own = model.state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(own[key], value), key


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('attention', [RA, *RIVALS])
def test_plain_weights(family, attention, randomise, pretrained, small):
    """The plain backbone's weights fit beside a new attention of any kind.

    Here by the names that they have in a wrapper, as of DDP.
    """
    plain = randomise(getattr(mmpretrain.models, family[2:])(**small[family]))
    state = {f'module.{k}': v for k, v in plain.state_dict().items()}
    model = pretrained(family, state, attention=attention, **small[family])
    own = model.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(own[key], value), key


def drop(*ends):
    return lambda state: {k: v for k, v in state.items() if not k.endswith(ends)}


@pytest.mark.parametrize(
    'family, change, kwargs, message',
    [
        ('RAResNet', drop('bn1.weight'), {}, r'9 missing \(bn1.weight'),
        ('RAResNet', drop('0.attention.gate.gamma'), {}, '4 missing'),
        ('RAResNet', lambda s: s, dict(depth=34), r'missing \(layer1.2'),
        ('RAResNet', lambda s: s, dict(deep_stem=True), r'stem.0.conv.weight'),
        (
            'RAResNet',
            drop('temp'),
            dict(attention=RIVALS[0]),
            r'8 unexpected \(layer1.0.attention.gate.gamma',
        ),
        (
            'RAResNet',
            lambda s: {**s, 'layer4.7.conv1.weight': torch.ones(1)},
            {},
            r'1 unexpected \(layer4.7',
        ),
        ('RAResNet', lambda s: {'fc.weight': torch.ones(2, 2)}, {}, 'missing'),
        ('RAResNeXt', lambda s: s, dict(groups=1), r'layer1.0.conv2.weight \('),
        ('RAMobileNetV2', lambda s: s, dict(widen_factor=0.5), 'size mismatch'),
        ('RAMobileNetV2', drop('layer2.1.conv.2.bn.bias'), {}, '1 missing'),
    ],
)
def test_wrong_weights(family, change, kwargs, message, pretrained, build, small):
    state = change(build(family).state_dict())
    with pytest.raises((UserError, ValueError), match=message):
        pretrained(family, state, **{**small[family], **kwargs})


def test_no_checkpoint(build):
    model = build('RAResNet', init_cfg=dict(type='Pretrained', checkpoint='a.pth'))
    with pytest.raises(UserError, match='a.pth'):
        model.init_weights()
