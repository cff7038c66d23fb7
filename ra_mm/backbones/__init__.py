from .resnet import RAResNet

__all__ = ['RAResNet']
