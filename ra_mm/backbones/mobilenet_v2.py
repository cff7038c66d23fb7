"""MobileNetV2 whose residual sum is an attention."""

from collections.abc import Mapping
from typing import Any

from mmpretrain.models.backbones import mobilenet_v2

from ra_mm.conversion import convert
from ra_mm.registry import MODELS

from .pretrained import StrictPretrained


@MODELS.register_module()
class RAMobileNetV2(StrictPretrained, mobilenet_v2.MobileNetV2):
    """RA-MobileNetV2: reverse attention on the skip connections.

    'We only embed RA branches in blocks containing skip connections' (paper,
    'RA block'): 10 of the 17 blocks. With gamma = 0 and the same weights it
    computes what mmpretrain's (and torchvision's) MobileNetV2 computes.

    A ``Pretrained`` init is strict, see :class:`.StrictPretrained`; it
    also takes torchvision's checkpoints.

    Args:
        widen_factor (float): Width multiplier, 0.5, 0.75 and 1 in the paper.
            Defaults to 1.
        attention (dict): Config of the blocks' attention, without ``channels``,
            see :func:`ra_mm.convert`. Defaults to
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
        **kwargs: Any,
    ) -> None:
        super().__init__(widen_factor=widen_factor, **kwargs)
        convert(self, attention)

    def rename_keys(self, state: Mapping) -> Mapping:
        """torchvision and timm have the same entries in the same order."""
        own = _entries(k for k in self.state_dict() if '.attention.' not in k)
        theirs = _entries(k for k in state if not k.startswith('classifier.'))
        if [k.split('.')[-1] for k in own] != [k.split('.')[-1] for k in theirs]:
            return state
        return {k: state[other] for k, other in zip(own, theirs)}


def _entries(keys):
    return [k for k in keys if not k.endswith('num_batches_tracked')]
