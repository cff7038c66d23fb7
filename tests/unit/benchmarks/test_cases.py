"""The cases that the benchmark measures."""

import pytest

from benchmarks.cases import Case


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


@pytest.mark.parametrize(
    'what, sizes',
    [
        ('train', [(32, 32)]),
        ('segmenter', [(32, 32)]),
        ('detector', [(32, 64), (32, 64), (64, 32), (32, 64), (64, 32)]),
    ],
)
def test_batches(what, sizes):
    """Those of a detector differ in size; boxes and maps are of the images' sizes."""
    batches = case(what).inputs()
    assert [images.shape[-2:] for images, _ in batches] == sizes
    for images, samples in batches:
        assert images.shape[:2] == (2, 3) and len(samples) == 2
        if what != 'train':
            assert samples[0].img_shape == images.shape[-2:]
