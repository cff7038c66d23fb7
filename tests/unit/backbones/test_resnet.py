"""What is particular to RA-ResNet and RA-ResNeXt."""

import mmpretrain.models
import mmseg.models.backbones
import pytest
import torch
import torchvision

from ra_mm.backbones import RAResNet
from ra_mm.errors import UserError


@pytest.mark.parametrize(
    'type, name', [('RAResNet', 'resnet18'), ('RAResNeXt', 'resnext50_32x4d')]
)
def test_torchvision_weights(type, name, randomise, pretrained):
    plain = randomise(getattr(torchvision.models, name)()).eval()
    depth = 18 if type == 'RAResNet' else 50
    model = pretrained(type, plain.state_dict(), depth=depth)
    plain.avgpool = plain.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x)[0].flatten(1), plain(x))
    missing, unexpected = model.load_state_dict(plain.state_dict(), False)
    assert all(k.endswith('attention.gate.gamma') for k in missing)
    assert not unexpected


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
        dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    ],
)
def test_resnet_v1c_weights(depth, options, randomise, pretrained):
    """mmseg's ResNet; its deep stem has other names for the same weights."""
    options = dict(options, depth=depth, num_stages=4, out_indices=(3,))
    plain = randomise(mmseg.models.backbones.ResNetV1c(**options))
    plain.eval()  # returns None
    state = dict(state_dict=plain.state_dict())
    model = pretrained('RAResNet', state, deep_stem=True, **options)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x)[0], plain(x)[0])


@pytest.mark.parametrize(
    'name, options',
    [
        ('resnet18', {}),
        ('resnet18d', dict(deep_stem=True, avg_down=True)),
        ('resnet50c', dict(deep_stem=True)),
        ('resnet50d', dict(deep_stem=True, avg_down=True)),
    ],
)
def test_timm_weights(name, options, randomise, pretrained):
    """timm has other names for the deep stem and for avg_down."""
    timm = pytest.importorskip('timm')
    plain = randomise(timm.create_model(name)).eval()
    state, depth = plain.state_dict(), int(name[6:8])
    model = pretrained('RAResNet', state, depth=depth, **options)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x)[0], plain.forward_features(x))


def test_timm_weights_of_another_shortcut(pretrained):
    """ResNet-D pools where ResNet-C's shortcut has a stride."""
    timm = pytest.importorskip('timm')
    state = timm.create_model('resnet18d').state_dict()
    with pytest.raises(UserError, match='downsample'):
        pretrained('RAResNet', state, depth=18, deep_stem=True)


SMALL = dict(depth=18, base_channels=8, stem_channels=8)


@pytest.mark.parametrize('options', [{}, dict(deep_stem=True)])
@pytest.mark.parametrize('channels', [1, 4, 6])
def test_other_input_channels(options, channels, tmp_path, randomise):
    """'repeat': a grey image gives what it gave before."""
    options = dict(SMALL, **options)
    plain = randomise(mmpretrain.models.ResNet(**options))
    torch.save(plain.state_dict(), tmp_path / 'a.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))

    def build(**init_cfg):
        model = RAResNet(in_channels=channels, init_cfg={**cfg, **init_cfg}, **options)
        model.init_weights()
        return model

    plain.eval()
    model = build(input_conv='repeat').eval()
    first = 'stem.0.conv.weight' if options.get('deep_stem') else 'conv1.weight'
    if channels == 4:
        rgb = plain.state_dict()[first] * 3 / 4
        assert torch.equal(model.state_dict()[first], rgb[:, [0, 1, 2, 0]])
    else:
        grey = torch.randn(1, 1, 64, 64)
        torch.testing.assert_close(
            model(grey.expand(-1, channels, -1, -1))[0],
            plain(grey.expand(-1, 3, -1, -1))[0],
        )
    model = build(input_conv='init').state_dict()
    assert model[first].shape[1] == channels and model[first].any()
    for name, value in plain.state_dict().items():
        assert name == first or torch.equal(model[name], value), name
    with pytest.raises(UserError, match=f'{first}.*input_conv'):
        build()
    with pytest.raises(ValueError, match="input_conv='mean'"):
        build(input_conv='mean')
