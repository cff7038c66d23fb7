"""Any backbone of OpenMMLab with an attention in its residual blocks."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from ra_mm.conversion import convert, summarize
from ra_mm.registry import MODELS
from ra_mm.validation import BUILD_CFG, check_arg

from .pretrained import StrictLoading


@MODELS.register_module(name='Converted')
def build_converted(
    backbone: Mapping,
    attention: Mapping = dict(type='ra_mm.ReverseAttention'),
    names: str | Iterable[str] | None = None,
    skip: str | Iterable[str] | None = None,
    blocks: str | Iterable[str] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a backbone and convert it, see :func:`ra_mm.convert`.

    The model has the backbone itself, an instance of its own class, with its
    checkpoint keys, ``init_cfg`` and ``frozen_stages``. Pre-trained weights must fit
    all of it but the attention, see :class:`.StrictLoading`. For example::

        _base_ = 'mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py'
        model = dict(backbone=dict(type='ra_mm.Converted', backbone=dict(type='HRNet')))

    Here the other arguments of the HRNet come from the base config.

    Args:
        backbone (dict): Config of the backbone.
        attention (dict): Config of the blocks' attention, without ``channels``.
            Defaults to ``dict(type='ra_mm.ReverseAttention')``.
        names, skip, blocks: As for :func:`ra_mm.convert`.
        **kwargs: Further arguments of the backbone. Those in ``backbone`` take
            precedence.

    Raises:
        ValueError: If the backbone has no type, or as for :func:`ra_mm.convert`.
        UserError: When weights are loaded, see :class:`.StrictLoading`.
    """
    check_arg(BUILD_CFG, backbone=backbone)
    model = MMENGINE_MODELS.build({**kwargs, **backbone})
    convert(model, attention, names, skip, blocks=blocks)
    print_log(summarize(model), logger='current')
    StrictLoading(model)
    return model
