"""Parameters and multiply-accumulates of small models, counted by hand."""

import pytest
import torch
import torchvision
from mmengine.config import ConfigDict
from torch import nn

from ra_mm.analysis.complexity import (
    CLASSIFIER,
    Part,
    count_flops,
    count_params,
    count_parts,
    not_called,
    not_counted,
)
from ra_mm.layers import ReverseAttention

HEIGHT, WIDTH = 6, 8


class Small(nn.Module):
    """A convolution, reverse attention and a classifier of 5 classes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.attention = ReverseAttention(4)
        self.act = nn.ReLU()
        self.head = nn.Linear(4, 5)

    def forward(self, image, data_samples, mode):
        assert mode == 'tensor'
        assert data_samples[0].img_shape == tuple(image.shape[2:])
        x = self.conv(image)
        x = self.act(self.attention(x, x))
        return self.head(x.mean(dim=(2, 3)))


CONV = 4 * 3 * 9 * HEIGHT * WIDTH
# Sum of squares and G * x per element; mean, N, gamma and temp per channel.
ATTENTION = 2 * 4 * HEIGHT * WIDTH + 4 * 4
POOLING = 4 * HEIGHT * WIDTH
HEAD = 4 * 5


def test_parts():
    """A ReLU is free, and the pooling belongs to no child."""
    model = Small()
    parts = count_parts(model, count_flops(model, (HEIGHT, WIDTH)))
    assert parts == [
        Part('conv', 4 * 3 * 9, CONV),
        Part('attention', 4, ATTENTION),
        Part('head', 4 * 5 + 5, HEAD),
        Part('', 0, POOLING),
    ]
    assert sum(part.params for part in parts) == count_params(model)
    assert 'forward' not in vars(model)  # is left as it was


def test_batch_norm_in_evaluation_mode():
    model = Small()
    model.act = nn.BatchNorm2d(4)
    counts = count_flops(model.train(), (HEIGHT, WIDTH)).by_operator()
    assert counts['batch_norm'] == 2 * 4 * HEIGHT * WIDTH
    assert not model.training


def test_trainable_params():
    model = Small()
    model.conv.requires_grad_(False)
    assert count_params(model) == 108 + 4 + 25
    assert count_params(model, trainable=True) == 4 + 25
    assert sum(p.numel() for p in nn.Linear(2048, 1000).parameters()) == CLASSIFIER


@pytest.mark.parametrize('fails', [False, True])
def test_nms_of_the_rpn_is_off_while_counting(fails):
    class Detector(Small):
        def forward(self, image, data_samples, mode):
            thresholds.append(self.rpn_head.test_cfg.nms.iou_threshold)
            if fails:
                raise RuntimeError
            return super().forward(image, data_samples, mode)

    thresholds = []
    model = Detector()
    model.rpn_head = nn.Identity()
    model.rpn_head.test_cfg = ConfigDict(nms=dict(iou_threshold=0.7))
    if fails:
        with pytest.raises(RuntimeError):
            count_flops(model, (HEIGHT, WIDTH))
    else:
        count_flops(model, (HEIGHT, WIDTH))
    assert set(thresholds) == {1.0}
    assert model.rpn_head.test_cfg.nms.iou_threshold == 0.7


class Operators(Small):
    """Self-attention of HW pixels, pooling, and operators that are not counted."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding='same', bias=False)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.unknown = nn.Sequential(RoIs(), RoIs())
        self.spectrum = self.unknown[0]  # a second name

    def forward(self, image, data_samples, mode):
        x = self.act(self.conv(image))
        pixels = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(pixels, pixels, pixels)
        direct = nn.functional.scaled_dot_product_attention(pixels, pixels, pixels)
        x = nn.functional.avg_pool2d(self.unknown(x), 3, stride=1)
        mixed = torch.lerp(mixed, direct, mixed).addcmul_(mixed, direct)
        x = torch.einsum('bc,bchw->bchw', mixed[:, 0], x)
        queries = mixed.new_ones(1, 3, 4)  # for six images
        mixed = queries @ mixed.mT.expand(6, -1, -1)
        return x.sum() + mixed.sum() + torch.fft.rfft2(x).abs().sum()


class RoIs(nn.Module):
    def forward(self, x):
        boxes = x.new_tensor([[0, 0, 0, WIDTH, HEIGHT]])
        return torchvision.ops.roi_align(x, boxes, (HEIGHT, WIDTH)).relu()


def test_what_is_not_counted_is_named():
    model = Operators()
    analyzer = count_flops(model, (HEIGHT, WIDTH))
    assert not_counted(model, analyzer) == {
        'torchvision::roi_align': ['unknown.0', 'unknown.1'],
        'aten::fft_rfft2': ['model'],
    }
    pixels = HEIGHT * WIDTH
    products = 2 * pixels * pixels * 4
    pooling = 4 * 9 * (HEIGHT - 2) * (WIDTH - 2)
    expected = CONV + 4 * pixels * 4 * 4 + 2 * products + pooling + 2 * 4 * pixels
    assert analyzer.total() == expected + pooling / 9 + 6 * 3 * pixels * 4
    assert not_called(model, analyzer) == []


def test_what_is_not_called_is_named():
    model = Small()
    model.neck = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1)), nn.ReLU())
    model.dropout = nn.Sequential(nn.Dropout())  # without parameters
    analyzer = count_flops(model, (HEIGHT, WIDTH))
    assert not_called(model, analyzer) == ['neck']
