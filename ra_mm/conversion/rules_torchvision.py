"""Rules for torchvision's residual blocks."""

from typing import Any

from torch import Tensor

from .rules import IDENTITY, add_chain, add_rule

MODELS = 'torchvision.models'

# ResNet, ResNeXt, Wide ResNet, and the detectors and segmenters built on them
add_chain(
    f'{MODELS}.resnet.BasicBlock',
    branch='conv1 bn1 relu conv2 bn2',
    shortcut='downsample',
    act='relu',
)
add_chain(
    f'{MODELS}.resnet.Bottleneck',
    branch='conv1 bn1 relu conv2 bn2 relu conv3 bn3',
    shortcut='downsample',
    act='relu',
)
add_chain(
    f'{MODELS}.regnet.ResBottleneckBlock', branch='f', shortcut='proj', act='activation'
)
add_chain(
    f'{MODELS}.mobilenetv2.InvertedResidual',
    branch='conv',
    has_shortcut=lambda block: block.use_res_connect,
)
add_chain(
    f'{MODELS}.mobilenetv3.InvertedResidual',
    branch='block',
    has_shortcut=lambda block: block.use_res_connect,
)
add_chain(
    f'{MODELS}.mnasnet._InvertedResidual',
    branch='layers',
    has_shortcut=lambda block: block.apply_residual,
)
add_chain(
    f'{MODELS}.efficientnet.MBConv',
    f'{MODELS}.efficientnet.FusedMBConv',
    branch='block',
    after='stochastic_depth',
    has_shortcut=lambda block: block.use_res_connect,
)


@add_rule(
    f'{MODELS}.convnext.CNBlock', channels=lambda block: block.block[0].out_channels
)
def convnext(block: Any, x: Tensor) -> tuple:
    F = block.layer_scale * block.block(x)
    return F, block.stochastic_depth, x, IDENTITY
