"""ResNets whose residual sum is an attention."""
from collections.abc import Mapping

from mmpretrain.models.backbones import resnet
from torch import Tensor

from ra_mm.registry import MODELS
from .base import AttentionBlock, StrictPretrained


class _ResNetBlock(AttentionBlock):
    """F(x) of BasicBlock and Bottleneck alike: all but the sum."""

    def F(self, x: Tensor) -> Tensor:
        last = 3 if hasattr(self, 'conv3') else 2
        for i in range(1, last):
            x = getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(x))
            x = self.relu(x)
        x = getattr(self, f'norm{last}')(getattr(self, f'conv{last}')(x))
        return self.drop_path(x)

    def identity(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def activation(self, y: Tensor) -> Tensor:
        return self.relu(y)


class RABasicBlock(_ResNetBlock, resnet.BasicBlock):
    """mmpretrain's BasicBlock with ``attention(F(x), x)`` as its sum."""


class RABottleneck(_ResNetBlock, resnet.Bottleneck):
    """mmpretrain's Bottleneck with ``attention(F(x), x)`` as its sum."""


@MODELS.register_module()
class RAResNet(StrictPretrained, resnet.ResNet):
    """RA-ResNet: reverse attention on every block (paper, 'RA block').

    All blocks have a shortcut and so an attention, the projection blocks that
    open a stage included (Fig. 5 shows RA_5_1). With gamma = 0 and the same
    weights it computes what mmpretrain's (and torchvision's) ResNet computes.

    A ``Pretrained`` init is strict, see :class:`.base.StrictPretrained`.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        attention (dict): Config of the block's attention, see
            :class:`.base.AttentionBlock`. Defaults to
            ``dict(type='ra_mm.ReverseAttention')``.
        **kwargs: As for :class:`mmpretrain.models.ResNet`, for example
            ``out_indices`` (defaults to ``(3, )``), ``frozen_stages``,
            ``norm_eval``, ``dilations``, ``deep_stem`` (ResNetV1c) together
            with ``avg_down`` (ResNetV1d).

    Raises:
        ValueError: If there is no ResNet of this depth.
    """
    arch_settings = {
        depth: (RABasicBlock if block is resnet.BasicBlock else RABottleneck,
                stage_blocks)
        for depth, (block, stage_blocks) in
        resnet.ResNet.arch_settings.items()
    }

    def __init__(self,
                 depth: int,
                 attention: Mapping = dict(type='ra_mm.ReverseAttention'),
                 **kwargs) -> None:
        if depth not in self.arch_settings:
            raise ValueError(f'depth={depth!r}: there is a ResNet of depth '
                             f'{", ".join(map(str, self.arch_settings))}')
        self.attention = attention  # make_res_layer needs it in super()
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs):
        return super().make_res_layer(attention=self.attention, **kwargs)
