"""The cases that the benchmark measures."""

import pytest

from benchmarks.cases import Case, tails


def case(what='train', **kwargs):
    settings = dict(model='resnet18', device='cpu', precision='fp32')
    settings |= dict(layout='nchw', batch=2, size=32)
    return Case(what, **(settings | kwargs))


@pytest.mark.parametrize(
    'model, variant, ratio',
    [
        ('resnet50', 'se', 35.8 / 28.9),
        ('resnet50', 'cbam', 44.3 / 28.9),
        ('resnet50', 'ra-naive', 36.5 / 28.9),
        ('resnet50', 'ra+compile', 36.5 / 28.9),
        ('resnet101', 'ra-fused', 59.8 / 46.8),
        ('resnet50', 'plain', None),
        ('resnet50', 'simam', None),
    ],
)
def test_paper_ratio(model, variant, ratio):
    """It comes from the hours of Table 2, and only for training steps."""
    assert case(model=model).paper_ratio(variant) == (ratio and pytest.approx(ratio))
    assert case('infer', model=model).paper_ratio(variant) is None


def test_tails():
    """There is a tail for every residual sum; MobileNetV2's have no ReLU."""
    found = tails(case(model='resnet50', size=224))
    assert [(shape[1:], relu) for shape, relu in found] == [
        ((c, s, s), True)
        for c, s, n in ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))
        for _ in range(n)
    ]
    found = tails(case(model='mobilenetv2', size=64))
    assert [(shape[1], relu) for shape, relu in found] == [
        (c, False)
        for c, n in ((24, 1), (32, 2), (64, 3), (96, 2), (160, 2))
        for _ in range(n)
    ]
