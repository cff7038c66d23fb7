"""ResNets, ResNeXts, MobileNetV2, and converted backbones with attention."""

from .converted import build_converted
from .mobilenet_v2 import RAMobileNetV2
from .resnet import RAResNet, RAResNeXt

__all__ = ['RAMobileNetV2', 'RAResNeXt', 'RAResNet', 'build_converted']
