"""The parameters of the models of Tables 2 and 3."""

import mmpretrain.models
import pytest

import ra_mm.backbones

# Model: (backbone, its argument, parameters of the plain model with its
# classifier of 1000 classes as torchvision documents them, None where it has
# no such model)
MODELS = {
    'ResNet18': ('ResNet', 18, 11_689_512),
    'ResNet50': ('ResNet', 50, 25_557_032),
    'ResNet101': ('ResNet', 101, 44_549_160),
    'MobileNetV2 (0.5x)': ('MobileNetV2', 0.5, None),
    'MobileNetV2 (0.75x)': ('MobileNetV2', 0.75, None),
    'MobileNetV2 (1.0x)': ('MobileNetV2', 1.0, 3_504_872),
}
KINDS = ('plain', 'SE', 'CBAM', 'ReverseAttention')


def residual_channels(name):
    """The channels of every block with a shortcut, from the architecture."""
    if name.startswith('ResNet'):
        expansion, blocks = {
            'ResNet18': (1, (2, 2, 2, 2)),
            'ResNet50': (4, (3, 4, 6, 3)),
            'ResNet101': (4, (3, 4, 23, 3)),
        }[name]
        widths = [64 * expansion * 2**stage for stage in range(4)]
    else:
        blocks = (0, 1, 2, 3, 2, 2, 0)
        widths = {
            'MobileNetV2 (0.5x)': (8, 16, 16, 32, 48, 80, 160),
            'MobileNetV2 (0.75x)': (16, 24, 24, 48, 72, 120, 240),
            'MobileNetV2 (1.0x)': (16, 24, 32, 64, 96, 160, 320),
        }[name]
    return [c for c, n in zip(widths, blocks) for _ in range(n)]


def added(kind, C):
    """Parameters of an attention on C channels."""
    r = C // 16
    perceptron = (C * r + r) + (r * C + C)
    return {
        'plain': 0,
        'SE': perceptron,
        'CBAM': 2 * perceptron + 2 * 7 * 7,
        'ReverseAttention': C,
    }[kind]


def count(family, argument, kind):
    """Parameters of the backbone and of a classifier of 1000 classes."""
    if kind == 'plain':
        model = getattr(mmpretrain.models, family)(argument)
    else:
        model = getattr(ra_mm.backbones, f'RA{family}')(
            argument, attention=dict(type=f'ra_mm.{kind}')
        )
    features = model.feat_dim if family == 'ResNet' else model.out_channel
    return sum(p.numel() for p in model.parameters()) + 1000 * (features + 1)


@pytest.mark.parametrize('name', MODELS)
def test_attention_of_every_shortcut_is_counted(name):
    """tests/integration/test_get_flops.py compares the models with the paper."""
    family, argument, documented = MODELS[name]
    plain = count(family, argument, 'plain')
    assert documented in (None, plain)
    for kind in KINDS:
        expected = plain + sum(added(kind, C) for C in residual_channels(name))
        assert count(family, argument, kind) == expected
