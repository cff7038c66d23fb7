"""Every rule against the forward pass that the library itself has.

The models are small where they can be.
"""

import copy

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ra_mm.conversion import AttentionBlock, convert
from ra_mm.ops import force_path


def openmmlab(toolbox):
    def row(name, blocks, *args, id='', **kwargs):
        def build():
            module = pytest.importorskip(f'{toolbox}.models.backbones')
            return getattr(module, name)(*args, **kwargs)

        return pytest.param((build, blocks), id=f'{toolbox} {name} {id}'.strip())

    return row


def torchvision(name, blocks, build=None, **kwargs):
    def build_by_name():
        models = pytest.importorskip('torchvision.models')
        return build(models) if build else getattr(models, name)(**kwargs)

    return pytest.param((build_by_name, blocks), id=f'torchvision {name}')


def torchvision_resnet(name, block):
    def build(models):
        block_class = getattr(models.resnet, block)
        return models.resnet.ResNet(block_class, [1, 2, 1, 1])

    return torchvision(name, 5, build)


def torchvision_convnext(models):
    config = models.convnext.CNBlockConfig
    stages = [config(8, 16, 1), config(16, None, 2)]
    return models.ConvNeXt(stages, stochastic_depth_prob=0.3)


def timm(name, blocks, **kwargs):
    def build():
        return pytest.importorskip('timm').create_model(name, num_classes=4, **kwargs)

    return pytest.param((build, blocks), id=f'timm {name}')


mmpretrain, mmdet, mmseg = map(openmmlab, ('mmpretrain', 'mmdet', 'mmseg'))
SMALL = dict(base_channels=8, stem_channels=8)
GROUPS = dict(groups=2, width_per_group=4)
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
CONVNEXT = dict(depths=[1, 1, 2, 1], channels=[8, 16, 32, 64])
GRN = dict(use_grn=True, layer_scale_init_value=0.0, linear_pw_conv=False)
DROP = dict(drop_path_rate=0.3)
PLUGINS = [
    dict(
        cfg=dict(type='ContextBlock', ratio=1 / 4, postfix=i), position=f'after_conv{i}'
    )
    for i in (1, 2, 3)
]

# The name of a model, and its number of blocks with a shortcut
FAMILIES = [
    mmpretrain('ResNet', 8, depth=18, id='18', **SMALL),
    mmpretrain('ResNet', 16, depth=50, id='50', **SMALL, **DROP),
    mmpretrain('ResNetV1d', 16, depth=50, **SMALL),
    mmpretrain('ResNeXt', 16, depth=50, **SMALL, **GROUPS),
    mmpretrain('SEResNet', 16, depth=50, **SMALL),
    mmpretrain('SEResNeXt', 16, depth=50, **SMALL, **GROUPS),
    mmpretrain('Res2Net', 16, depth=50, **SMALL, base_width=26),
    mmpretrain('RegNet', 22, 'regnetx_400mf'),
    mmpretrain('ResNeSt', 16, depth=50, **SMALL),
    mmpretrain('HRNet', 10, extra=HRNET),
    mmpretrain('MobileNetV2', 11, widen_factor=0.25),
    mmpretrain('MobileNetV3', 6, 'small'),
    mmpretrain('EfficientNet', 9, 'b0'),
    mmpretrain('EfficientNet', 12, 'es', drop_path_rate=0.2, id='EdgeTPU'),
    mmpretrain('EfficientNetV2', 35, 's', **DROP),
    mmpretrain('ConvNeXt', 5, CONVNEXT, **DROP),
    mmpretrain('ConvNeXt', 5, CONVNEXT, **GRN, id='V2'),
    mmdet('ResNet', 16, 50, base_channels=8),
    mmdet('ResNet', 16, 50, base_channels=8, plugins=PLUGINS, id='with plugins'),
    mmdet('ResNeXt', 16, depth=50, groups=2, base_width=4),
    mmdet('RegNet', 22, 'regnetx_400mf'),
    mmdet('Res2Net', 16, depth=50, base_channels=16, base_width=16),
    mmdet('ResNeSt', 16, depth=50, base_channels=16),
    mmdet('HRNet', 10, HRNET),
    mmdet('MobileNetV2', 11, widen_factor=0.25),
    mmdet('EfficientNet', 9, 'b0'),
    mmdet('Darknet', 23, 53),
    mmdet('CSPDarknet', 7, deepen_factor=0.33, widen_factor=0.125),
    mmdet('CSPNeXt', 3, deepen_factor=0.167, widen_factor=0.125),
    mmseg('ResNetV1c', 8, depth=18, base_channels=8),
    mmseg('ResNet', 16, depth=50, base_channels=8),
    mmseg('ResNeXt', 16, depth=50, groups=2, base_width=4),
    mmseg('ResNeSt', 16, depth=50, base_channels=16),
    mmseg('HRNet', 10, HRNET),
    mmseg('MobileNetV2', 11, widen_factor=0.25),
    mmseg('MobileNetV3', 6, 'small'),
    torchvision_resnet('ResNet-18', 'BasicBlock'),
    torchvision_resnet('ResNet-50', 'Bottleneck'),
    torchvision('regnet_x_400mf', 22),
    torchvision('regnet_y_400mf', 16),
    torchvision('mobilenet_v2', 10),
    torchvision('mobilenet_v3_small', 6),
    torchvision('mnasnet0_5', 10),
    torchvision('efficientnet_b0', 9),
    torchvision('efficientnet_v2_s', 35),
    torchvision('ConvNeXt', 3, torchvision_convnext),
    timm('resnet18', 8),
    timm('resnet26d', 8, **DROP),
    timm('resnetblur18', 8),
    timm('seresnet18', 8),
    timm('ecaresnet26t', 8),
    timm('hrnet_w18_small', None),
    timm('regnetx_002', 13),
    timm('regnety_002', 13, **DROP),
    timm('regnetv_040', 22, **DROP),
    timm('mobilenetv2_050', 10),
    timm('mobilenetv3_small_100', 6),
    timm('mobilenetv4_conv_small_050', None),
    timm('efficientnet_b0', 9, **DROP),
    timm('tf_efficientnetv2_b0', 15),
    timm('test_convnext', None, **DROP),
    timm('test_convnext2', None),
]


@pytest.fixture(params=FAMILIES)
def family(request, randomise):
    """A plain model of each family, randomised, and its number of blocks."""
    build, blocks = request.param
    torch.manual_seed(0)
    return randomise(build()).double(), blocks


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


SUMS = (Tensor.add, Tensor.__add__, Tensor.__iadd__, Tensor.add_, torch.add)
SHORTCUTS = ('downsample', 'proj', 'shortcut')  # the modules of projection blocks


class ReferenceSum(TorchFunctionMode):
    """Replaces the sums of plain blocks by the paper's equation.

    It needs no rule: of the two terms of a sum, the shortcut is the one that is
    the block's input or the output of its projection.
    """

    def __init__(self, plain, converted):
        super().__init__()
        self.gate_of = {}  # a tensor that is a shortcut: the gate of its block
        self.handles = []
        self.sums = 0
        for name, block in converted.named_modules():
            if isinstance(block, AttentionBlock):
                self._watch(plain.get_submodule(name), block.attention.gate)

    def _watch(self, block, gate):
        for name in SHORTCUTS:
            module = getattr(block, name, None)
            if module is not None:
                self.handles.append(
                    module.register_forward_hook(
                        lambda m, args, out: self._remember(out, gate)
                    )
                )
                return
        self.handles.append(
            block.register_forward_pre_hook(lambda m, args: self._remember(*args, gate))
        )

    def _remember(self, shortcut, gate):
        self.gate_of[id(shortcut)] = shortcut, gate

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in SUMS and len(args) == 2:
            for x, F in (args, args[::-1]):
                if id(x) in self.gate_of and isinstance(F, Tensor):
                    _, gate = self.gate_of.pop(id(x))
                    self.sums += 1
                    n = torch.linalg.vector_norm(F, dim=(2, 3))
                    N = n / (n.mean(dim=1, keepdim=True) + 1e-6)
                    G = 1 + gate.gamma / gate.temp * N
                    return F + G[:, :, None, None] * x
        return function(*args, **(kwargs or {}))

    def __exit__(self, *args):
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*args)


def test_reference_equation(family):
    """With any gamma, the step of the library's own block with Eqs. 3 to 8."""
    plain, _ = family
    model = convert(copy.deepcopy(plain))
    g = torch.Generator().manual_seed(0)
    for block in attentions(model).values():
        block.attention.gate.gamma.data.normal_(generator=g)
        block.attention.gate.temp.fill_(3.0)
    with ReferenceSum(plain, model) as mode:
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
