"""Rules for timm's residual blocks."""

from typing import Any

from torch import Tensor

from .rules import IDENTITY, add_chain, add_rule

MODELS = 'timm.models'
EFFICIENTNET = f'{MODELS}._efficientnet_blocks'

# ResNet with any stem, ResNeXt, their SE, ECA and other variants, HRNet
add_chain(
    f'{MODELS}.resnet.BasicBlock',
    branch='conv1 bn1 drop_block act1 aa conv2 bn2',
    after='se drop_path',
    shortcut='downsample',
    act='act2',
)
add_chain(
    f'{MODELS}.resnet.Bottleneck',
    branch='conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3',
    after='se drop_path',
    shortcut='downsample',
    act='act3',
)
add_chain(
    f'{MODELS}.regnet.Bottleneck',
    branch='conv1 conv2 se conv3',
    after='drop_path',
    shortcut='downsample',
    act='act3',
    has_shortcut=lambda block: block.downsample is not None,
)


@add_rule(
    f'{MODELS}.regnet.PreBottleneck',
    channels=lambda block: block.conv3.out_channels,
    has_shortcut=lambda block: block.downsample is not None,
)
def pre_bottleneck(block: Any, x: Tensor) -> tuple:
    """RegNetV, whose shortcut begins after the first norm."""
    x = block.norm1(x)
    F = block.conv2(block.norm2(block.conv1(x)))
    F = block.conv3(block.norm3(block.se(F)))
    return F, block.drop_path, block.downsample(x), IDENTITY


# MobileNets and EfficientNets: they end in a BatchNormAct2d without activation
# or, in ConvBnAct, with one.
for name, branch in dict(
    ConvBnAct='conv bn1 aa',
    DepthwiseSeparableConv='conv_s2d? bn_s2d? conv_dw bn1 aa se conv_pw bn2',
    InvertedResidual='conv_s2d? bn_s2d? conv_pw bn1 conv_dw bn2 aa se conv_pwl bn3',
    EdgeResidual='conv_exp bn1 aa se conv_pwl bn2',
    UniversalInvertedResidual=('dw_start pw_exp dw_mid se pw_proj dw_end layer_scale'),
).items():
    add_chain(
        f'{EFFICIENTNET}.{name}',
        branch=branch,
        after='drop_path',
        has_shortcut=lambda block: block.has_skip,
    )


@add_rule(
    f'{MODELS}.convnext.ConvNeXtBlock',
    channels=lambda block: block.conv_dw.out_channels,
)
def convnext(block: Any, x: Tensor) -> tuple:
    """ConvNeXt and ConvNeXt V2."""
    F = block.conv_dw(x)
    if block.use_conv_mlp:
        F = block.mlp(block.norm(F))
    else:
        F = block.mlp(block.norm(F.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    if block.gamma is not None:
        F = F.mul(block.gamma.reshape(1, -1, 1, 1))
    return F, block.drop_path, block.shortcut(x), IDENTITY
