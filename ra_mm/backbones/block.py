"""The residual block whose sum is an attention, and strict pre-trained weights.

The only forward pass of all attention blocks is :meth:`AttentionBlock.forward`:
the block computes its residual branch up to the last norm, its shortcut, and
leaves the rest to ``attention.tail(z, norm, shortcut, activation)``, see
:class:`ra_mm.layers.ResidualSum`.
"""

from collections.abc import Callable, Mapping

import torch.utils.checkpoint as cp
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import format_mismatch, load_weights, strip_prefix
from ra_mm.errors import UserError
from ra_mm.layers import ResidualSum
from ra_mm.registry import MODELS

IDENTITY = nn.Identity()


class AttentionBlock(BaseModule):
    """Mixin that replaces the sum of a residual block by an attention.

    A subclass defines :meth:`residual_branch`, and also :meth:`shortcut` where
    it is not x and :attr:`activation` if one follows the sum. Everything else,
    with the names in the state dict, stays the block's.

    Args:
        attention (dict): Config of a :class:`ra_mm.layers.ResidualSum`, which
            is built with ``channels=C``.

    Raises:
        ValueError: If the config names no registered module, arguments that
            the module does not have, or a module of another kind.
    """

    def __init__(self, *args, attention: Mapping, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.attention = build_attention(attention, self.out_channels)

    def residual_branch(self, x: Tensor) -> tuple[Tensor, Callable]:
        """Return z and norm such that ``F(x) = norm(z)``."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        return x

    @property
    def activation(self) -> nn.Module:
        return IDENTITY

    def forward(self, x: Tensor) -> Tensor:
        def inner_forward(x):
            z, norm = self.residual_branch(x)
            return self.attention.tail(z, norm, self.shortcut(x), self.activation)

        if self.with_cp and x.requires_grad:
            return cp.checkpoint(inner_forward, x, use_reentrant=False)
        return inner_forward(x)


def build_attention(cfg: Mapping, channels: int) -> ResidualSum:
    """Build the attention of a block, see :class:`AttentionBlock`."""
    try:
        attention = MODELS.build(dict(**cfg, channels=channels))
    except (KeyError, TypeError) as e:
        raise ValueError(
            f'attention={cfg!r}: {e.args[0]}. Expected the config, without '
            "channels, of 'ra_mm.ReverseAttention', 'ra_mm.SE', 'ra_mm.CBAM' or "
            'your own registered subclass of ra_mm.layers.ResidualSum. For a '
            "backbone without attention use mmpretrain's"
        ) from e
    if not isinstance(attention, ResidualSum):
        raise ValueError(
            f'attention={cfg!r}: {type(attention).__name__} is not a subclass of '
            'ra_mm.layers.ResidualSum, whose forward(F, x) returns the sum'
        )
    return attention


class StrictPretrained(BaseModule):
    """Mixin for backbones: ``Pretrained`` weights fit completely, or it raises.

    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)`` takes the
    path or URL of a checkpoint of this backbone, of the plain one (its
    attention then stays as initialized), or of a complete model that has
    either as its ``backbone.``.

    Raises:
        UserError: When weights are loaded, if keys of the backbone are missing
            from the checkpoint, or the checkpoint has unexpected keys or other
            shapes. Only the attention may be missing, and only all of it.
    """

    def init_weights(self) -> None:
        cfgs = self.init_cfg
        cfgs = [cfgs] if isinstance(cfgs, Mapping) else cfgs or []
        pretrained = [c for c in cfgs if c['type'] in ('Pretrained', PretrainedInit)]
        if pretrained:
            load_pretrained(
                self, pretrained[-1]['checkpoint'], pretrained[-1].get('prefix')
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


def load_pretrained(
    backbone: StrictPretrained, checkpoint: str, prefix: str | None = None
) -> None:
    """Load a checkpoint into a backbone, see :class:`StrictPretrained`."""
    source = read_state_dict(checkpoint)
    if prefix is None:
        source = strip_prefix(source, None)
        if any(k.startswith('backbone.') for k in source):
            prefix = 'backbone.'
    state = backbone.rename_keys(strip_prefix(source, prefix))

    # Classifiers and heads are not part of the backbone.
    children = dict(backbone.named_children())
    found = load_weights(
        backbone, {k: v for k, v in state.items() if k.split('.')[0] in children}
    )
    if not any('.attention.' in k for k in state):
        found['missing'] = [k for k in found['missing'] if '.attention.' not in k]
    if any(found.values()):
        raise UserError(
            f'{checkpoint} does not fit {type(backbone).__name__}: '
            f'{format_mismatch(found)}. Give a checkpoint of the same backbone '
            '(depth, stem, width, attention) or change init_cfg'
        )
