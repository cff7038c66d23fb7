"""Strict pre-trained weights for the backbones."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import (
    attention_keys,
    find_prefix,
    format_mismatch,
    is_attention_absent,
    load_weights,
    strip_prefix,
)
from ra_mm.errors import UserError
from ra_mm.validation import check_arg, one_of


class StrictPretrained(BaseModule):
    """Mixin that makes the ``Pretrained`` initialization of a backbone strict.

    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)`` takes the
    path or URL of a checkpoint of this backbone, of the plain one (its
    attention then stays as initialized), or of a complete model that has
    either as its ``backbone.``.

    For images with another number of channels than the checkpoint's, the config
    has to say what becomes of the first convolution: ``input_conv='repeat'``
    repeats its weights over the channels, scaled by 3 / channels, and for one
    channel sums them, as timm does; ``input_conv='init'`` leaves it as it is
    initialized.

    Raises:
        UserError: When weights are loaded, if keys of the backbone are missing
            from the checkpoint, or the checkpoint has unexpected keys or other
            shapes. Only the attention may be missing, and only all of it.
    """

    def init_weights(self) -> None:
        cfg = _find_init_cfg(self)
        if cfg:
            load_pretrained(
                self, cfg['checkpoint'], cfg.get('prefix'), cfg.get('input_conv')
            )
            self.is_init = True
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)  # returns None in mmpretrain
        return self

    def rename_keys(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Convert the keys of other libraries' checkpoints to this backbone's."""
        return state


def _find_init_cfg(module):
    """Return the config of the ``Pretrained`` initialization of a module, if any."""
    cfgs = getattr(module, 'init_cfg', None)
    cfgs = [cfgs] if isinstance(cfgs, Mapping) else cfgs or []
    pretrained = [c for c in cfgs if c['type'] in ('Pretrained', PretrainedInit)]
    return pretrained[-1] if pretrained else None


def refuse_foreign_weights(backbone: nn.Module, found: Any) -> None:
    """Stop if the weights of a checkpoint do not fit a backbone.

    MMEngine only warns of it, and the training starts from scratch. This is a hook
    for :meth:`torch.nn.Module.register_load_state_dict_post_hook`: at that time, the
    weights have the names that an ``init_weights`` of the backbone's own gives them.

    Args:
        backbone: A backbone of OpenMMLab. With ``dcn`` or ``plugins``, it has weights
            that no pre-training knows.
        found: ``missing_keys`` and ``unexpected_keys`` of the model that is loaded.
            The keys of a detector differ from those of its backbone, so that nothing
            is refused there.

    Raises:
        UserError: If weights are missing while the backbone is initialized, except
            for those of attentions; at other times, if all of them are.
    """
    cfg = _find_init_cfg(backbone) or {}
    attention = attention_keys(backbone)
    own = [name for name, _ in backbone.named_parameters() if name not in attention]
    missing = [name for name in own if name in found.missing_keys]
    is_strict = cfg and not (
        getattr(backbone, 'is_init', True)
        or getattr(backbone, 'dcn', None)
        or getattr(backbone, 'plugins', None)
    )
    if not missing or (not is_strict and (missing != own or not found.unexpected_keys)):
        return
    remedy = 'give a checkpoint of the same backbone, or none to train from scratch'
    if missing == own and cfg:
        prefix = find_prefix(own, read_state_dict(cfg['checkpoint']))
        remedy = f'add prefix={prefix!r} to init_cfg' if prefix else remedy
    mismatch = dict(missing=missing, unexpected=found.unexpected_keys)
    raise UserError(
        f'{cfg.get("checkpoint", "the checkpoint")} does not fit '
        f'{type(backbone).__name__}: {format_mismatch(mismatch)}; {remedy}'
    )


def load_pretrained(
    backbone: StrictPretrained,
    checkpoint: str,
    prefix: str | None = None,
    input_conv: str | None = None,
) -> None:
    """Load a checkpoint into a backbone, see :class:`StrictPretrained`."""
    check_arg(one_of(None, 'repeat', 'init'), input_conv=input_conv)
    source = weights = read_state_dict(checkpoint)
    if prefix is None:
        source = strip_prefix(source, None)
        if any(k.startswith('backbone.') for k in source):
            prefix = 'backbone.'
    state = backbone.rename_keys(strip_prefix(source, prefix))

    if input_conv:
        state = _adapt_input_conv(backbone, state, input_conv)

    # Classifiers and heads are not part of the backbone.
    children = dict(backbone.named_children())
    found = load_weights(
        backbone, {k: v for k, v in state.items() if k.split('.')[0] in children}
    )
    attention = attention_keys(backbone)
    if is_attention_absent(backbone, found['missing']):
        found['missing'] = [k for k in found['missing'] if k not in attention]
    if any(found.values()):
        own = backbone.state_dict().keys() - attention
        better = (
            None
            if own & state.keys()
            else find_prefix(own, weights, backbone.rename_keys)
        )
        remedy = (
            f'add prefix={better!r} to init_cfg'
            if better
            else 'give a checkpoint of the same backbone (depth, stem, width, '
            'attention) or change init_cfg; for another number of input channels, add '
            "input_conv='repeat' or input_conv='init' to it"
        )
        raise UserError(
            f'{checkpoint} does not fit {type(backbone).__name__}: '
            f'{format_mismatch(found)}; {remedy}'
        )


def _adapt_input_conv(backbone, state, how):
    """Fit the weight of the first convolution to the input channels."""
    name, conv = next(
        (f'{n}.weight', m)
        for n, m in backbone.named_modules()
        if isinstance(m, nn.Conv2d)
    )
    weight, wanted = state.get(name), conv.weight.shape[1]
    if weight is None or weight.ndim != 4 or weight.shape[1] == wanted:
        return state
    if how == 'init':
        weight = conv.weight.detach()
    elif wanted == 1:
        weight = weight.sum(dim=1, keepdim=True)
    else:
        given = weight.shape[1]
        index = torch.arange(wanted) % given
        weight = weight[:, index] * (given / wanted)
    return {**state, name: weight}
