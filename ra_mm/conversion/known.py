"""The residual blocks that are converted without ``blocks=``, by tracing them.

They are known by the names of their classes, so that no library is imported.
"""

from .rules import defining_class, full_name

# ResNet and its variants, HRNet, Darknet, MobileNets, EfficientNets and ConvNeXt
OPENMMLAB = """
models.backbones.resnet.BasicBlock models.backbones.resnet.Bottleneck
models.backbones.seresnet.SEBottleneck models.backbones.resnest.Bottleneck
models.backbones.res2net.Bottle2neck models.backbones.darknet.ResBlock
models.backbones.mobilenet_v2.InvertedResidual
models.backbones.efficientnet.EdgeResidual
models.backbones.efficientnet_v2.EnhancedConvModule
models.backbones.convnext.ConvNeXtBlock
models.layers.inverted_residual.InvertedResidual
models.layers.csp_layer.DarknetBottleneck models.layers.csp_layer.CSPNeXtBlock
models.utils.inverted_residual.InvertedResidual
models.utils.inverted_residual.InvertedResidualV3
"""
TIMM = """
resnet.BasicBlock resnet.Bottleneck regnet.Bottleneck regnet.PreBottleneck
_efficientnet_blocks.ConvBnAct _efficientnet_blocks.DepthwiseSeparableConv
_efficientnet_blocks.InvertedResidual _efficientnet_blocks.EdgeResidual
_efficientnet_blocks.UniversalInvertedResidual convnext.ConvNeXtBlock
"""
TORCHVISION = """
resnet.BasicBlock resnet.Bottleneck regnet.ResBottleneckBlock
mobilenetv2.InvertedResidual mobilenetv3.InvertedResidual mnasnet._InvertedResidual
efficientnet.MBConv efficientnet.FusedMBConv convnext.CNBlock
"""
KNOWN = {
    f'{package}.{name}'
    for packages, names in (
        ('mmpretrain mmdet mmseg', OPENMMLAB),
        ('timm.models', TIMM),
        ('torchvision.models', TORCHVISION),
    )
    for package in packages.split()
    for name in names.split()
}


def is_known(cls: type) -> bool:
    """Whether this is a known class, or a subclass with the same forward pass."""
    return full_name(defining_class(cls)) in KNOWN
