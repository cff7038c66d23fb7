"""ResNets and ResNeXts whose residual sum is an attention."""

from collections.abc import Callable, Mapping

from mmpretrain.models.backbones import resnet, resnext
from torch import Tensor, nn

from ra_mm.registry import MODELS
from ra_mm.validation import BOOL, check_arg, one_of

from .block import AttentionBlock, StrictPretrained


class _ResNetBlock(AttentionBlock):
    """The residual branch of BasicBlock and Bottleneck alike."""

    def residual_branch(self, x: Tensor) -> tuple[Tensor, Callable]:
        last = 3 if hasattr(self, 'conv3') else 2
        for i in range(1, last):
            x = getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(x))
            x = self.relu(x)
        z = getattr(self, f'conv{last}')(x)
        norm = getattr(self, f'norm{last}')
        if isinstance(self.drop_path, nn.Identity):
            return z, norm
        return norm(z), self.drop_path  # F(x) = drop_path(norm(z))

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    @property
    def activation(self) -> nn.Module:
        return self.relu


class RABasicBlock(_ResNetBlock, resnet.BasicBlock):
    """mmpretrain's BasicBlock with ``attention(F(x), x)`` as its sum."""


class RABottleneck(_ResNetBlock, resnet.Bottleneck):
    """mmpretrain's Bottleneck with ``attention(F(x), x)`` as its sum."""


class RAResNeXtBottleneck(_ResNetBlock, resnext.Bottleneck):
    """ResNeXt's Bottleneck with ``attention(F(x), x)`` as its sum."""


@MODELS.register_module()
class RAResNet(StrictPretrained, resnet.ResNet):
    """RA-ResNet: reverse attention on every block (paper, 'RA block').

    Every block has a shortcut and so an attention, including the projection
    block that opens a stage (Fig. 5 shows RA_5_1). With gamma = 0 and the same
    weights it computes what the ResNet of mmpretrain (and torchvision) computes.

    ``deep_stem=True`` makes it an RA-ResNetV1c, with ``avg_down=True`` an
    RA-ResNetV1d. A ``Pretrained`` init is strict, see
    :class:`.block.StrictPretrained`; it also takes checkpoints of mmdet's and
    mmseg's ResNets.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        attention (dict): Config of the block's attention, see
            :class:`.block.AttentionBlock`. Defaults to
            ``dict(type='ra_mm.ReverseAttention')``.
        contract_dilation (bool): Whether the first block of a dilated stage
            has half its dilation, as in mmseg. Defaults to False.
        **kwargs: As for :class:`mmpretrain.models.ResNet`, for example
            ``out_indices`` (defaults to ``(3, )``), ``frozen_stages``,
            ``norm_eval``, ``dilations``.

    Raises:
        ValueError: If there is no such depth, or ``attention`` cannot be built.
    """

    arch_settings = {
        depth: (
            RABasicBlock if block is resnet.BasicBlock else RABottleneck,
            stage_blocks,
        )
        for depth, (block, stage_blocks) in resnet.ResNet.arch_settings.items()
    }

    def __init__(
        self,
        depth: int,
        attention: Mapping = dict(type='ra_mm.ReverseAttention'),
        contract_dilation: bool = False,
        **kwargs,
    ) -> None:
        check_arg(BOOL, contract_dilation=contract_dilation)
        check_arg(one_of(*self.arch_settings), depth=depth)
        self.attention = attention  # super() calls make_res_layer, which needs both
        self.contract_dilation = contract_dilation
        super().__init__(depth, **kwargs)

    def make_res_layer(self, dilation: int, **kwargs) -> nn.Module:
        layer = super().make_res_layer(
            attention=self.attention, dilation=dilation, **kwargs
        )
        if self.contract_dilation and dilation > 1:
            for conv in layer[0].modules():
                if getattr(conv, 'dilation', None) == (dilation, dilation):
                    conv.dilation = conv.padding = (dilation // 2,) * 2
        return layer

    def rename_keys(self, state: Mapping) -> Mapping:
        """The deep stem of mmdet and mmseg is flat."""
        return {_rename_deep_stem(k): v for k, v in state.items()}


@MODELS.register_module()
class RAResNeXt(RAResNet, resnext.ResNeXt):
    """ResNeXt with an attention on every block, see :class:`RAResNet`.

    Args:
        depth (int): 50, 101 or 152.
        groups (int): Groups of the 3x3 convolutions. Defaults to 32.
        width_per_group (int): Their channels in a group, in the first stage.
            Defaults to 4.
        **kwargs: As for :class:`RAResNet`.
    """

    arch_settings = {
        depth: (RAResNeXtBottleneck, stage_blocks)
        for depth, (_, stage_blocks) in resnext.ResNeXt.arch_settings.items()
    }


def _rename_deep_stem(key):
    stem, *index = key.split('.')
    names = {
        '0': '0.conv',
        '1': '0.bn',
        '3': '1.conv',
        '4': '1.bn',
        '6': '2.conv',
        '7': '2.bn',
    }
    if stem == 'stem' and len(index) == 2 and index[0] in names:
        return f'stem.{names[index[0]]}.{index[1]}'
    return key
