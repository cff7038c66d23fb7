"""Rules for the residual blocks of mmpretrain, mmdet and mmseg."""

from typing import Any

import torch
from torch import Tensor

from .rules import IDENTITY, add_chain, add_rule


def _backbones(name, *toolboxes):
    return [
        f'{toolbox}.models.backbones.{name}'
        for toolbox in toolboxes or ('mmpretrain', 'mmdet', 'mmseg')
    ]


# ResNet and its variants. mmdet and mmseg have plugins, mmpretrain drop path.
RESNET: dict = dict(shortcut='downsample', act='relu')
CONV1 = 'conv1 norm1 relu after_conv1_plugin_names?'
CONV3 = 'after_conv2_plugin_names? conv3 norm3'
AFTER = 'after_conv3_plugin_names? drop_path?'

add_chain(
    *_backbones('resnet.BasicBlock'),
    branch='conv1 norm1 relu conv2 norm2',
    after='drop_path?',
    **RESNET,
)
# ResNeXt, RegNet and HRNet as well
add_chain(
    *_backbones('resnet.Bottleneck'),
    branch=f'{CONV1} conv2 norm2 relu {CONV3}',
    after=AFTER,
    # DetectoRS also calls its blocks by a second method.
    has_shortcut=lambda block: not hasattr(block, 'rfp_forward'),
    **RESNET,
)
add_chain(
    *_backbones('seresnet.SEBottleneck', 'mmpretrain'),
    branch='conv1 norm1 relu conv2 norm2 relu conv3 norm3',
    after='se_layer',
    **RESNET,
)
add_chain(
    *_backbones('resnest.Bottleneck'),
    branch=f'{CONV1} conv2 avd_layer? {CONV3}',
    after='after_conv3_plugin_names?',
    **RESNET,
)


@add_rule(
    *_backbones('res2net.Bottle2neck', 'mmpretrain', 'mmdet'),
    # mmdet's has plugins, which nothing uses yet.
    has_shortcut=lambda block: not getattr(block, 'with_plugins', False),
    channels=lambda block: block.conv3.out_channels,
)
def res2net(block: Any, x: Tensor) -> tuple:
    z = block.relu(block.norm1(block.conv1(x)))
    *parts, rest = torch.split(z, block.width, 1)
    outs: list[torch.Tensor] = []
    for part, conv, bn in zip(parts, block.convs, block.bns):
        if outs and block.stage_type != 'stage':
            part = part + outs[-1]
        outs.append(block.relu(bn(conv(part.contiguous()))))
    outs.append(block.pool(rest) if hasattr(block, 'pool') else rest)
    z = block.conv3(torch.cat(outs, 1))
    shortcut = x if block.downsample is None else block.downsample(x)
    return z, block.norm3, shortcut, block.relu


# MobileNets and EfficientNets
add_chain(
    *_backbones('mobilenet_v2.InvertedResidual', 'mmpretrain'),
    'mmseg.models.utils.inverted_residual.InvertedResidual',
    branch='conv',
    has_shortcut=lambda block: block.use_res_connect,
)
add_chain(
    'mmpretrain.models.utils.inverted_residual.InvertedResidual',
    'mmdet.models.layers.inverted_residual.InvertedResidual',
    'mmseg.models.utils.inverted_residual.InvertedResidualV3',
    branch='expand_conv? depthwise_conv se? linear_conv',
    after='drop_path?',
    has_shortcut=lambda block: block.with_res_shortcut,
)
add_chain(
    *_backbones('efficientnet.EdgeResidual', 'mmpretrain', 'mmdet'),
    branch='conv1 se? conv2',
    after='drop_path',
    has_shortcut=lambda block: block.with_residual,
)
# The first stage of EfficientNetV2; the activation comes before the sum.
add_chain(
    *_backbones('efficientnet_v2.EnhancedConvModule', 'mmpretrain'),
    branch='conv norm activate',
    after='drop_path',
    has_shortcut=lambda block: block.has_skip,
)

# Darknet, CSPDarknet and CSPNeXt (YOLOv3, YOLOX, RTMDet)
add_chain(*_backbones('darknet.ResBlock', 'mmdet'), branch='conv1 conv2')
add_chain(
    'mmdet.models.layers.csp_layer.DarknetBottleneck',
    'mmdet.models.layers.csp_layer.CSPNeXtBlock',
    branch='conv1 conv2',
    has_shortcut=lambda block: block.add_identity,
)


@add_rule(
    *_backbones('convnext.ConvNeXtBlock', 'mmpretrain'),
    channels=lambda block: block.depthwise_conv.out_channels,
)
def convnext(block: Any, x: Tensor) -> tuple:
    """ConvNeXt and ConvNeXt V2."""
    F = block.depthwise_conv(x)
    layout = 'channel_first'
    if block.linear_pw_conv:
        F, layout = F.permute(0, 2, 3, 1), 'channel_last'
    F = block.act(block.pointwise_conv1(block.norm(F, data_format=layout)))
    if block.grn is not None:
        F = block.grn(F, data_format=layout)
    F = block.pointwise_conv2(F)
    if block.linear_pw_conv:
        F = F.permute(0, 3, 1, 2)
        if x.is_contiguous():  # the sum has the layout of x, as in x + F
            F = F.contiguous()
    if block.gamma is not None:
        F = F.mul(block.gamma.view(1, -1, 1, 1))
    return F, block.drop_path, x, IDENTITY
