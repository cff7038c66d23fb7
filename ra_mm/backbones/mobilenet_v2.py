"""MobileNetV2 whose residual sum is an attention."""

from collections.abc import Callable, Mapping

from mmpretrain.models.backbones import mobilenet_v2
from torch import Tensor, nn

from ra_mm.ops.dispatch import has_hooks
from ra_mm.registry import MODELS

from .block import AttentionBlock, StrictPretrained


class RAInvertedResidual(AttentionBlock):
    """MobileNetV2's residual block with ``attention(F(x), x)`` as its sum.

    Args:
        block (InvertedResidual): mmpretrain's block with a skip connection,
            whose convolutions this one takes over.
        attention (dict): See :class:`.block.AttentionBlock`.
    """

    def __init__(
        self, block: mobilenet_v2.InvertedResidual, attention: Mapping
    ) -> None:
        self.out_channels = block.conv[-1].out_channels
        super().__init__(attention=attention)
        self.conv = block.conv
        self.with_cp = block.with_cp

    def residual_branch(self, x: Tensor) -> tuple[Tensor, Callable]:
        *first, last = self.conv
        if has_hooks(self.conv) or has_hooks(last):
            return self.conv(x), nn.Identity()
        for layer in first:
            x = layer(x)
        return last(x, norm=False), last.norm


@MODELS.register_module()
class RAMobileNetV2(StrictPretrained, mobilenet_v2.MobileNetV2):
    """RA-MobileNetV2: reverse attention on the skip connections.

    'We only embed RA branches in blocks containing skip connections' (paper,
    'RA block'): 10 of the 17 blocks. With gamma = 0 and the same weights it
    computes what mmpretrain's (and torchvision's) MobileNetV2 computes.

    A ``Pretrained`` init is strict, see :class:`.block.StrictPretrained`; it
    takes torchvision's checkpoints, too.

    Args:
        widen_factor (float): Width multiplier, 0.5, 0.75 and 1 in the paper.
            Defaults to 1.
        attention (dict): Config of the block's attention, see
            :class:`.block.AttentionBlock`. Defaults to
            ``dict(type='ra_mm.ReverseAttention')``.
        **kwargs: As for :class:`mmpretrain.models.MobileNetV2`, for example
            ``out_indices`` (defaults to ``(7, )``), ``frozen_stages``,
            ``norm_eval``.

    Raises:
        ValueError: If ``attention`` cannot be built.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        attention: Mapping = dict(type='ra_mm.ReverseAttention'),
        **kwargs,
    ) -> None:
        self.attention = attention  # super() calls make_layer, which needs it
        super().__init__(widen_factor=widen_factor, **kwargs)

    def make_layer(self, **kwargs) -> nn.Sequential:
        layer = super().make_layer(**kwargs)
        for i, block in enumerate(layer):
            if block.use_res_connect:
                layer[i] = RAInvertedResidual(block, self.attention)
        return layer

    def rename_keys(self, state: Mapping) -> Mapping:
        """torchvision's state dict has the same entries in the same order."""
        own = _entries(k for k in self.state_dict() if '.attention.' not in k)
        theirs = _entries(k for k in state if k.startswith('features.'))
        if [k.split('.')[-1] for k in own] != [k.split('.')[-1] for k in theirs]:
            return state
        return {k: state[other] for k, other in zip(own, theirs)}


def _entries(keys):
    return [k for k in keys if not k.endswith('num_batches_tracked')]
