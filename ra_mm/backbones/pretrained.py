"""Strict pre-trained weights for the backbones."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from ra_mm.engine.checkpoint_io import read_state_dict, unnest
from ra_mm.engine.strict_load import (
    find_integers,
    find_prefix,
    format_mismatch,
    load_weights,
    strip_prefix,
)
from ra_mm.errors import UserError
from ra_mm.layers.residual_sum import attention_keys, excuse_attention
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


class StrictLoading:
    """Hooks that let a backbone of OpenMMLab load only weights that fit it.

    MMEngine only warns of others, and the training starts from scratch. While the
    backbone is initialized, the weights have to fit it as they have to fit a
    :class:`StrictPretrained`; at other times, some of them. Weights of a detector,
    whose keys differ from those of its backbone, are for others to judge.

    The hooks see the weights with the names that an ``init_weights`` of the backbone's
    own gives them. The norms that some backbones add to their outputs (``norm0``) may
    be missing, and all that no pre-training knows if the backbone has ``dcn`` or
    ``plugins``.

    Args:
        backbone: Its ``init_cfg`` loses the prefix, which is removed here from weights
            in any of the usual places of a checkpoint.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.prefix = (_find_init_cfg(backbone) or {}).pop('prefix', None)
        self.weights: Mapping | None = None
        self.errors: list[str] = []
        hooks = backbone._load_state_dict_pre_hooks
        backbone._register_load_state_dict_pre_hook(self.unwrap, with_module=True)
        for key in list(hooks)[:-1]:  # this one comes first: others know no prefix
            hooks[key] = hooks.pop(key)
        backbone.register_load_state_dict_post_hook(self.refuse)

    def unwrap(
        self, backbone: nn.Module, state_dict: dict, name: str, *args: Any
    ) -> None:
        """Leave only the weights in a checkpoint, without their prefix."""
        if name:  # of a part of a detector
            return
        *_, self.errors = args
        self.weights = weights = dict(unnest(state_dict))
        if self.prefix:  # MMEngine may have removed that of a wrapper
            prefix = self.prefix.removeprefix('module.')
            weights = strip_prefix(strip_prefix(weights, None), prefix) or weights
        state_dict.clear()
        state_dict.update(weights)

    def refuse(self, backbone: nn.Module, result: Any) -> None:
        """Raise a :class:`.UserError` if weights do not fit."""
        weights, self.weights = self.weights, None
        if weights is None:
            return
        cfg = _find_init_cfg(backbone) or {}
        names = {name for name, _ in backbone.named_parameters()}
        names |= attention_keys(backbone)
        # The other buffers are computed, such as masks of attention.
        names |= {key for key in backbone.state_dict() if '.running_' in key}
        missing = [
            key
            for key in result.missing_keys
            if key in names and not OUTPUT_NORM.fullmatch(key)
        ]
        nothing_fits = names - attention_keys(backbone) <= {*missing}
        if not nothing_fits and (not cfg or getattr(backbone, 'is_init', True)):
            return
        is_new = getattr(backbone, 'dcn', None) or getattr(backbone, 'plugins', None)
        ends = {key.rpartition('.')[2] for key in backbone.state_dict()}
        unexpected = [
            key
            for key in result.unexpected_keys
            if key.rpartition('.')[2] in ends or '.attention.' in key
        ]
        found = {
            'missing': [] if is_new and not nothing_fits else missing,
            'unexpected': unexpected,
            'size mismatch': [
                SIZES.sub(r'\1 \2 instead of \3', e) for e in self.errors
            ],
            'integer': find_integers(backbone, weights),
        }
        if source := cfg.get('checkpoint'):
            weights = read_state_dict(source)
        refuse_mismatch(backbone, found, weights, source or 'the checkpoint')


OUTPUT_NORM = re.compile(r'norm\d+\.(weight|bias)')
SIZES = re.compile(r'(?s)size mismatch for (\S+):.*?(\[.*?\]).*?(\[.*?\]).*')


def refuse_mismatch(
    backbone: nn.Module,
    found: Mapping[str, list[str]],
    weights: Mapping[str, Any],
    source: str,
    rename: Callable[[Mapping], Mapping] = dict,
    advice: str = '',
) -> None:
    """Stop if pre-trained weights do not fit a backbone.

    All of its attention may be missing. What is not in a child of the backbone is of a
    classifier or a head.

    Args:
        backbone: A backbone.
        found: What did not fit, see :func:`.load_weights`.
        weights: Those of the checkpoint, by name, to find a prefix in.
        source: The checkpoint, for the message.
        rename: See :func:`.find_prefix`.
        advice: What else to do.

    Raises:
        UserError: If keys are missing or unexpected, or sizes differ.
    """
    missing = excuse_attention(backbone, found['missing'])
    own = {name for name, _ in backbone.named_parameters()} - attention_keys(backbone)
    nothing_fits = own <= set(missing)
    children = dict(backbone.named_children())
    surplus = [key for key in found['unexpected'] if key.split('.')[0] in children]
    found = {**found, 'missing': missing, 'unexpected': surplus}
    if not any(found.values()):
        return
    remedy = 'give a checkpoint of the same backbone (depth, stem, width, attention),'
    remedy += f' or none to train from scratch{advice}'
    if nothing_fits and (prefix := find_prefix(own, weights, rename)):
        remedy = f'add prefix={prefix!r} to init_cfg'
    raise UserError(
        f'{source} does not fit {type(backbone).__name__}: '
        f'{format_mismatch(found)}; {remedy}'
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

    found = load_weights(backbone, state)
    refuse_mismatch(
        backbone,
        found,
        weights,
        checkpoint,
        backbone.rename_keys,
        "; for another number of input channels, add input_conv='repeat' or "
        "input_conv='init' to init_cfg",
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
