"""ResNets and ResNeXts whose residual sum is an attention."""

from collections.abc import Mapping
from typing import Any

from mmpretrain.models.backbones import resnet, resnext
from torch import nn

from ra_mm.conversion import convert
from ra_mm.registry import MODELS

from .pretrained import StrictPretrained


@MODELS.register_module()
class RAResNet(StrictPretrained, resnet.ResNet):
    """RA-ResNet: reverse attention on every block (paper, 'RA block').

    Every block has a shortcut and so an attention, including the projection
    block that opens a stage (Fig. 5 shows RA_5_1). With gamma = 0 and the same
    weights it computes what the ResNet of mmpretrain (and torchvision) computes.

    ``deep_stem=True`` makes it an RA-ResNetV1c, with ``avg_down=True`` an
    RA-ResNetV1d. A ``Pretrained`` init is strict, see
    :class:`.StrictPretrained`; it also takes checkpoints of mmdet's,
    mmseg's, torchvision's and timm's ResNets.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        attention (dict): Config of the blocks' attention, without ``channels``,
            see :func:`ra_mm.convert`. Defaults to
            ``dict(type='ra_mm.ReverseAttention')``.
        contract_dilation (bool): Whether the first block of a dilated stage
            has half its dilation, as in mmseg. Defaults to False.
        **kwargs: As for :class:`mmpretrain.models.ResNet`, for example
            ``out_indices`` (defaults to ``(3, )``), ``frozen_stages``,
            ``norm_eval``, ``dilations``.

    Raises:
        KeyError: If there is no such depth.
        ValueError: If ``attention`` cannot be built.
    """

    def __init__(
        self,
        depth: int,
        attention: Mapping = dict(type='ra_mm.ReverseAttention'),
        contract_dilation: bool = False,
        **kwargs: Any,
    ) -> None:
        self.contract_dilation = contract_dilation  # for make_res_layer
        super().__init__(depth, **kwargs)
        convert(self, attention)

    def make_res_layer(self, dilation: int, **kwargs: Any) -> nn.Module:
        layer = super().make_res_layer(dilation=dilation, **kwargs)
        if self.contract_dilation and dilation > 1:
            for conv in layer[0].modules():
                if getattr(conv, 'dilation', None) == (dilation, dilation):
                    conv.dilation = conv.padding = (dilation // 2,) * 2
        return layer

    def rename_keys(self, state: Mapping) -> Mapping:
        """mmdet, mmseg and timm name the deep stem and avg_down otherwise."""
        pooled = self.state_dict() if self.avg_down else None
        return {_rename(key, state, pooled): value for key, value in state.items()}


@MODELS.register_module()
class RAResNeXt(RAResNet, resnext.ResNeXt):
    """ResNeXt with an attention on every block, see :class:`RAResNet`.

    Args:
        depth (int): 50, 101 or 152.
        groups (int): Groups of the 3x3 convolutions. Defaults to 32.
        width_per_group (int): Channels in a group in the first stage.
            Defaults to 4.
        **kwargs: As for :class:`RAResNet`.
    """


# The deep stem as one Sequential: mmdet's and mmseg's stem, timm's conv1
STEM = {
    '0': 'stem.0.conv',
    '1': 'stem.0.bn',
    '3': 'stem.1.conv',
    '4': 'stem.1.bn',
    '6': 'stem.2.conv',
    '7': 'stem.2.bn',
}


def _rename(key, state, pooled):
    """The name in a backbone, whose own names are ``pooled`` if it has avg_down."""
    if '.' not in key:  # of a whole model, for example CLIP's logit_scale
        return key
    module, *index, entry = key.split('.')
    if module in ('stem', 'conv1') and len(index) == 1 and index[0] in STEM:
        return f'{STEM[index[0]]}.{entry}'
    if module == 'bn1' and 'conv1.6.weight' in state:
        return f'stem.2.bn.{entry}'
    if pooled is not None and 'downsample' in index:
        # With avg_down, timm has an Identity where there is nothing to pool.
        place = '.'.join([module, *index[:-1]])
        if f'{place}.2.weight' in state and f'{place}.2.weight' not in pooled:
            return f'{place}.{int(index[-1]) - 1}.{entry}'
    return key
