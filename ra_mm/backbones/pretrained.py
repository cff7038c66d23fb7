"""Strict pre-trained weights for the backbones."""

from collections.abc import Mapping

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import format_mismatch, load_weights, strip_prefix
from ra_mm.errors import UserError


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
