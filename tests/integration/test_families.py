"""Every rule against the forward pass that the library itself has.

The models are small where they can be.
"""

import copy

import pytest
import torch
from torch import Tensor

from ra_mm.conversion import AttentionBlock, convert
from ra_mm.ops import force_path


def openmmlab(toolbox, name, *args, **kwargs):
    def build():
        module = pytest.importorskip(f'{toolbox}.models.backbones')
        return getattr(module, name)(*args, **kwargs)

    return build


def torchvision(build):
    return lambda: build(pytest.importorskip('torchvision.models'))


def timm(name, **kwargs):
    def build():
        return pytest.importorskip('timm').create_model(name, num_classes=4, **kwargs)

    return build


def _torchvision_resnet(block, **kwargs):
    return torchvision(
        lambda tv: tv.resnet.ResNet(getattr(tv.resnet, block), [1, 2, 1, 1], **kwargs)
    )


SMALL = dict(base_channels=8, stem_channels=8)
HRNET = {
    f'stage{i + 1}': dict(
        num_modules=1,
        num_branches=i + 1,
        block='BASIC' if i else 'BOTTLENECK',
        num_blocks=(1,) * (i + 1),
        num_channels=(8, 16, 32, 64)[: i + 1],
    )
    for i in range(4)
}
DROP = dict(drop_path_rate=0.3)

# Family: (a function that builds it, the number of blocks with a shortcut)
FAMILIES = {
    'mmpretrain ResNet-18': (openmmlab('mmpretrain', 'ResNet', depth=18, **SMALL), 8),
    'mmpretrain ResNet-50': (
        openmmlab('mmpretrain', 'ResNet', depth=50, **SMALL, **DROP),
        16,
    ),
    'mmpretrain ResNetV1c': (
        openmmlab('mmpretrain', 'ResNetV1c', depth=50, **SMALL),
        16,
    ),
    'mmpretrain ResNetV1d': (
        openmmlab('mmpretrain', 'ResNetV1d', depth=50, **SMALL),
        16,
    ),
    'mmpretrain ResNeXt': (
        openmmlab(
            'mmpretrain', 'ResNeXt', depth=50, **SMALL, groups=2, width_per_group=4
        ),
        16,
    ),
    'mmpretrain SEResNet': (openmmlab('mmpretrain', 'SEResNet', depth=50, **SMALL), 16),
    'mmpretrain SEResNeXt': (
        openmmlab(
            'mmpretrain', 'SEResNeXt', depth=50, **SMALL, groups=2, width_per_group=4
        ),
        16,
    ),
    'mmpretrain Res2Net': (
        openmmlab('mmpretrain', 'Res2Net', depth=50, **SMALL, base_width=26),
        16,
    ),
    'mmpretrain RegNet': (openmmlab('mmpretrain', 'RegNet', 'regnetx_400mf'), 22),
    'mmpretrain ResNeSt': (openmmlab('mmpretrain', 'ResNeSt', depth=50, **SMALL), 16),
    'mmpretrain HRNet': (openmmlab('mmpretrain', 'HRNet', extra=HRNET), 10),
    'mmpretrain MobileNetV2': (
        openmmlab('mmpretrain', 'MobileNetV2', widen_factor=0.25),
        11,
    ),
    'mmpretrain MobileNetV3': (openmmlab('mmpretrain', 'MobileNetV3', 'small'), 6),
    'mmpretrain EfficientNet': (openmmlab('mmpretrain', 'EfficientNet', 'b0'), 9),
    'mmpretrain EfficientNet-EdgeTPU': (
        openmmlab('mmpretrain', 'EfficientNet', 'es', drop_path_rate=0.2),
        12,
    ),
    'mmpretrain EfficientNetV2': (
        openmmlab('mmpretrain', 'EfficientNetV2', 's', **DROP),
        35,
    ),
    'mmpretrain ConvNeXt': (
        openmmlab(
            'mmpretrain',
            'ConvNeXt',
            dict(depths=[1, 1, 2, 1], channels=[8, 16, 32, 64]),
            **DROP,
        ),
        5,
    ),
    'mmpretrain ConvNeXt V2': (
        openmmlab(
            'mmpretrain',
            'ConvNeXt',
            dict(depths=[1, 1, 2, 1], channels=[8, 16, 32, 64]),
            use_grn=True,
            layer_scale_init_value=0.0,
            linear_pw_conv=False,
        ),
        5,
    ),
    'mmdet ResNet': (openmmlab('mmdet', 'ResNet', 50, base_channels=8), 16),
    'mmdet ResNet with plugins': (
        openmmlab(
            'mmdet',
            'ResNet',
            50,
            base_channels=8,
            plugins=[
                dict(
                    cfg=dict(type='ContextBlock', ratio=1 / 4, postfix=i),
                    position=f'after_conv{i}',
                )
                for i in (1, 2, 3)
            ],
        ),
        16,
    ),
    'mmdet ResNeXt': (
        openmmlab('mmdet', 'ResNeXt', depth=50, groups=2, base_width=4),
        16,
    ),
    'mmdet RegNet': (openmmlab('mmdet', 'RegNet', 'regnetx_400mf'), 22),
    'mmdet Res2Net': (
        openmmlab('mmdet', 'Res2Net', depth=50, base_channels=16, base_width=16),
        16,
    ),
    'mmdet ResNeSt': (openmmlab('mmdet', 'ResNeSt', depth=50, base_channels=16), 16),
    'mmdet HRNet': (openmmlab('mmdet', 'HRNet', HRNET), 10),
    'mmdet MobileNetV2': (openmmlab('mmdet', 'MobileNetV2', widen_factor=0.25), 11),
    'mmdet EfficientNet': (openmmlab('mmdet', 'EfficientNet', 'b0'), 9),
    'mmdet Darknet': (openmmlab('mmdet', 'Darknet', 53), 23),
    'mmdet CSPDarknet': (
        openmmlab('mmdet', 'CSPDarknet', deepen_factor=0.33, widen_factor=0.125),
        7,
    ),
    'mmdet CSPNeXt': (
        openmmlab('mmdet', 'CSPNeXt', deepen_factor=0.167, widen_factor=0.125),
        3,
    ),
    'mmseg ResNetV1c': (openmmlab('mmseg', 'ResNetV1c', depth=18, base_channels=8), 8),
    'mmseg ResNet': (openmmlab('mmseg', 'ResNet', depth=50, base_channels=8), 16),
    'mmseg ResNeXt': (
        openmmlab('mmseg', 'ResNeXt', depth=50, groups=2, base_width=4),
        16,
    ),
    'mmseg ResNeSt': (openmmlab('mmseg', 'ResNeSt', depth=50, base_channels=16), 16),
    'mmseg HRNet': (openmmlab('mmseg', 'HRNet', HRNET), 10),
    'mmseg MobileNetV2': (openmmlab('mmseg', 'MobileNetV2', widen_factor=0.25), 11),
    'mmseg MobileNetV3': (openmmlab('mmseg', 'MobileNetV3', 'small'), 6),
    'torchvision ResNet-18': (_torchvision_resnet('BasicBlock'), 5),
    'torchvision ResNet-50': (_torchvision_resnet('Bottleneck'), 5),
    'torchvision ResNeXt': (
        _torchvision_resnet('Bottleneck', groups=4, width_per_group=4),
        5,
    ),
    'torchvision Wide ResNet': (
        _torchvision_resnet('Bottleneck', width_per_group=128),
        5,
    ),
    'torchvision RegNet': (torchvision(lambda tv: tv.regnet_x_400mf()), 22),
    'torchvision RegNet Y': (torchvision(lambda tv: tv.regnet_y_400mf()), 16),
    'torchvision MobileNetV2': (torchvision(lambda tv: tv.mobilenet_v2()), 10),
    'torchvision MobileNetV3': (torchvision(lambda tv: tv.mobilenet_v3_small()), 6),
    'torchvision MNASNet': (torchvision(lambda tv: tv.mnasnet0_5()), 10),
    'torchvision EfficientNet': (torchvision(lambda tv: tv.efficientnet_b0()), 9),
    'torchvision EfficientNetV2': (torchvision(lambda tv: tv.efficientnet_v2_s()), 35),
    'torchvision ConvNeXt': (
        torchvision(
            lambda tv: tv.ConvNeXt(
                [
                    tv.convnext.CNBlockConfig(8, 16, 1),
                    tv.convnext.CNBlockConfig(16, None, 2),
                ],
                stochastic_depth_prob=0.3,
            )
        ),
        3,
    ),
    'timm ResNet-18': (timm('resnet18'), 8),
    'timm ResNet-26d': (timm('resnet26d', **DROP), 8),
    'timm ResNet-26t': (timm('resnet26t'), 8),
    'timm ResNet with BlurPool': (timm('resnetblur18'), 8),
    'timm ResNeXt': (timm('resnext50_32x4d', layers=(1, 2, 1, 1), base_width=2), 5),
    'timm SE-ResNet': (timm('seresnet18'), 8),
    'timm ECA-ResNet': (timm('ecaresnet26t'), 8),
    'timm HRNet': (timm('hrnet_w18_small'), None),
    'timm RegNet': (timm('regnetx_002'), 13),
    'timm RegNet Y': (timm('regnety_002', **DROP), 13),
    'timm RegNet V': (timm('regnetv_040', **DROP), 22),
    'timm MobileNetV2': (timm('mobilenetv2_050'), 10),
    'timm MobileNetV3': (timm('mobilenetv3_small_100'), 6),
    'timm MobileNetV4': (timm('mobilenetv4_conv_small_050'), None),
    'timm EfficientNet': (timm('efficientnet_b0', **DROP), 9),
    'timm EfficientNetV2': (timm('tf_efficientnetv2_b0'), 15),
    'timm ConvNeXt': (timm('test_convnext', **DROP), None),
    'timm ConvNeXt V2': (timm('test_convnext2'), None),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    """A plain model of each family, randomised, and its number of blocks."""
    build, blocks = FAMILIES[request.param]
    torch.manual_seed(0)
    model = build()
    g = torch.Generator().manual_seed(0)
    for name, t in model.state_dict().items():
        if name.endswith('running_var'):
            t.uniform_(0.5, 2, generator=g)
        elif t.ndim == 1:
            t.add_(torch.randn(t.shape, generator=g), alpha=0.1)
    return model.double(), blocks


EXACT = dict(rtol=0, atol=0)
ADDED = ('gamma', 'temp')


def inputs():
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 64, generator=g, dtype=torch.float64)


def step(model, x):
    """Outputs, gradients by name, and statistics of a training step."""
    model.train()
    x = x.clone().requires_grad_()
    torch.manual_seed(0)  # for dropout and drop path
    outs = model(x)
    outs = [outs] if isinstance(outs, Tensor) else list(outs)
    loss = sum((out * out.detach().cos()).sum() for out in outs)
    names, weights = zip(*model.named_parameters())
    grads = torch.autograd.grad(loss, [x, *weights], allow_unused=True)
    return outs, dict(zip(['x', *names], grads)), dict(model.named_buffers())


def attentions(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, AttentionBlock)}


def test_gamma_0_is_the_plain_model(family):
    """Outputs, gradients and statistics, to the bit, and the state dict."""
    plain, blocks = family
    model = convert(copy.deepcopy(plain))
    if blocks:
        assert len(attentions(model)) == blocks
    added = {f'{n}.attention.gate.{k}' for n in attentions(model) for k in ADDED}
    assert [k for k in model.state_dict() if k not in added] == list(plain.state_dict())
    assert added <= set(model.state_dict())
    expected = step(plain, inputs())
    with force_path('reference'):
        outs, grads, buffers = step(model, inputs())
    torch.testing.assert_close(outs, expected[0], **EXACT)
    for own, theirs in ((grads, expected[1]), (buffers, expected[2])):
        for name, value in theirs.items():
            torch.testing.assert_close(
                own[name], value, **EXACT, msg=lambda m: f'{name}: {m}'
            )


def test_reference_equation(family, reference_sum):
    """With any gamma, the step of the library's own block with Eqs. 3 to 8."""
    plain, _ = family
    model = convert(copy.deepcopy(plain))
    g = torch.Generator().manual_seed(0)
    for block in attentions(model).values():
        block.attention.gate.gamma.data.normal_(generator=g)
        block.attention.gate.temp.fill_(3.0)
    with reference_sum(plain, model) as mode:
        expected = step(plain, inputs())
    assert mode.sums == len(attentions(model))
    for path in ('reference', 'fused'):
        twin = copy.deepcopy(model)
        with force_path(path):
            outs, grads, _ = step(twin, inputs())
        torch.testing.assert_close(outs, expected[0])
        largest = max(g.abs().max() for g in expected[1].values() if g is not None)
        for name, value in expected[1].items():
            if value is not None:
                error = (grads[name] - value).abs().max()
                assert error <= 1e-9 * largest, name
        for name in attentions(model):
            grad = grads[f'{name}.attention.gate.gamma']
            assert grad.isfinite().all(), name
