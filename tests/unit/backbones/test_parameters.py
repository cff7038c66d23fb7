"""The parameters of Tables 2 and 3: exactly, and as the paper prints them."""

import mmpretrain.models
import pytest

import ra_mm.backbones

# Model: (backbone, its argument, parameters of the plain model with its
# classifier of 1000 classes as torchvision documents them, None where it has
# no such model; then the paper's 'Param. (M)' of plain, SE, CBAM, RA)
PAPER = {
    'ResNet18': ('ResNet', 18, 11_689_512, '11.69 11.78 11.87 11.69'),
    'ResNet50': ('ResNet', 50, 25_557_032, '25.56 28.06 30.57 25.56'),
    'ResNet101': ('ResNet', 101, 44_549_160, '44.55 49.33 54.11 44.58'),
    'MobileNetV2 (0.5x)': ('MobileNetV2', 0.5, None, '1.969 1.972 1.976 1.969'),
    'MobileNetV2 (0.75x)': ('MobileNetV2', 0.75, None, '2.636 2.643 2.650 2.636'),
    'MobileNetV2 (1.0x)': ('MobileNetV2', 1.0, 3_504_872, '3.505 3.516 3.529 3.505'),
}
KINDS = ('plain', 'SE', 'CBAM', 'ReverseAttention')
# Where the paper prints something else than the digits of the exact count.
MISPRINTS = {
    # These two are the counts without the attention of the first stage.
    ('ResNet50', 'SE'): '28.09',
    ('ResNet50', 'CBAM'): '30.62',
    # These three repeat the plain model's.
    ('ResNet50', 'ReverseAttention'): '25.57',
    ('MobileNetV2 (0.75x)', 'ReverseAttention'): '2.637',
    ('MobileNetV2 (1.0x)', 'ReverseAttention'): '3.506',
}


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


@pytest.mark.parametrize('name', PAPER)
def test_tables_2_and_3(name):
    family, argument, documented, printed = PAPER[name]
    plain = count(family, argument, 'plain')
    assert documented in (None, plain)
    for kind, digits in zip(KINDS, printed.split()):
        expected = plain + sum(added(kind, C) for C in residual_channels(name))
        assert count(family, argument, kind) == expected
        decimals = len(digits.split('.')[1])
        ours = f'{expected / 1e6:.{decimals}f}'
        assert ours == MISPRINTS.get((name, kind), digits)
        assert (ours != digits) == ((name, kind) in MISPRINTS)


def test_misprints_of_resnet50():
    """For SE and CBAM, the three blocks of stage 1 (256 channels) are left out."""
    for kind, digits in zip(KINDS[1:3], PAPER['ResNet50'][3].split()[1:3]):
        rest = residual_channels('ResNet50')[3:]
        assert rest[0] == 512
        total = 25_557_032 + sum(added(kind, C) for C in rest)
        assert f'{total / 1e6:.2f}' == digits
