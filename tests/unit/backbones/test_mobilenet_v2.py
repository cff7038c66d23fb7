"""What is particular to RA-MobileNetV2."""

import pytest
import torch
import torchvision

from ra_mm.backbones import RAMobileNetV2
from ra_mm.errors import UserError
from ra_mm.layers import ReverseAttention

# MobileNetV2's Table 2: the blocks of each stage, all but the first of which
# repeat the width at stride 1 and so have a skip connection.
BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def attentions(width):
    return {
        name
        for name, m in RAMobileNetV2(width).named_modules()
        if isinstance(m, ReverseAttention)
    }


def test_attention_on_skip_connections_only():
    expected = {
        f'layer{s}.{b}.attention'
        for s, blocks in enumerate(BLOCKS, 1)
        for b in range(1, blocks)
    }
    assert len(expected) == 10
    for width in (0.5, 0.75, 1.0, 1.4):
        assert attentions(width) == expected
    # Widths are multiples of 8: here the first block keeps its width, too.
    assert attentions(0.1) == expected | {'layer1.0.attention'}


@pytest.mark.parametrize('width', [0.5, 1.0])
def test_torchvision_weights(width, randomise, pretrained):
    """torchvision has other names for the same weights."""
    plain = randomise(torchvision.models.mobilenet_v2(width_mult=width)).eval()
    model = pretrained('RAMobileNetV2', plain.state_dict(), widen_factor=width)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x)[0], plain.features(x))


def test_timm_weights(randomise, pretrained):
    timm = pytest.importorskip('timm')
    plain = randomise(timm.create_model('mobilenetv2_050')).eval()
    model = pretrained('RAMobileNetV2', plain.state_dict(), widen_factor=0.5)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x)[0], plain.forward_features(x))


@pytest.mark.parametrize(
    'width, order, message',
    [(0.25, sorted, r'missing[\s\S]*conv1.conv.weight'), (0.5, list, 'size mismatch')],
)
def test_wrong_torchvision_weights(width, order, message, pretrained):
    state = torchvision.models.mobilenet_v2(width_mult=width).state_dict()
    state = dict(order(state.items()))
    with pytest.raises(UserError, match=message):
        pretrained('RAMobileNetV2', state, widen_factor=0.25)
