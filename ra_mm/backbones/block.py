"""What all RA backbones and their blocks share."""

from collections.abc import Callable, Mapping

import torch.utils.checkpoint as cp
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import format_mismatch, load_weights, strip_prefix
from ra_mm.registry import MODELS
from ra_mm.validation import (
    BELOW_1,
    BOOL,
    BUILD_CFG,
    BUILD_CFGS,
    NONE,
    POSITIVE,
    check_arg,
    integer,
    one_of,
)

# Arguments that mmpretrain's backbones do not look at, or without a message.
ARGUMENTS = dict(
    widen_factor=POSITIVE,
    in_channels=integer(1),
    stem_channels=integer(1),
    base_channels=integer(1),
    expansion=NONE | integer(1),
    groups=integer(1),
    width_per_group=integer(1),
    style=one_of('pytorch', 'caffe'),
    deep_stem=BOOL,
    avg_down=BOOL,
    norm_eval=BOOL,
    with_cp=BOOL,
    zero_init_residual=BOOL,
    drop_path_rate=BELOW_1,
    conv_cfg=NONE | BUILD_CFG,
    norm_cfg=BUILD_CFG,
    act_cfg=BUILD_CFG,
    init_cfg=NONE | BUILD_CFGS,
)


class AttentionBlock:
    """Mixin that turns the sum of a residual block into an attention.

    Where the block computes ``F(x) + identity(x)``, the mixed block computes
    ``attention(F(x), identity(x))``. A subclass says what F(x) is, and also
    identity(x) where it is not x and the activation after the sum if there is
    one; everything else, with the names in the checkpoint, stays the block's.

    Args:
        attention (dict): Config of the module that is called with F(x) and the
            shortcut, both (N, C, H, W), and returns their sum before the
            activation. It is built with ``channels=C``. Where it has a method
            ``residual`` this is called instead, see
            :meth:`.ReverseAttention.residual`.

    Raises:
        ValueError: If the config names no registered module, or arguments
            that the module does not have.
    """

    activation = nn.Identity()

    def __init__(self, *args, attention: Mapping, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.attention = _build_attention(attention, self.out_channels)

    def F(self, x: Tensor) -> tuple[Tensor, Callable]:
        """F(x) as z and the norm, or whatever callable, that makes it of z."""
        raise NotImplementedError

    def identity(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:

        def inner_forward(x):
            z, norm = self.F(x)
            x = self.identity(x)
            if hasattr(self.attention, 'residual'):
                return self.attention.residual(z, norm, x, self.activation)
            return self.activation(self.attention(norm(z), x))

        if self.with_cp and x.requires_grad:
            return cp.checkpoint(inner_forward, x, use_reentrant=False)
        return inner_forward(x)


def _build_attention(cfg, channels) -> nn.Module:
    try:
        return MODELS.build(dict(**cfg, channels=channels))
    except (KeyError, TypeError) as e:
        raise ValueError(
            f'attention={cfg!r}: {e.args[0]}. Expected is the config, without '
            "channels, of 'ra_mm.ReverseAttention', 'ra_mm.SE', 'ra_mm.CBAM' "
            'or a module of your own that sums F(x) and the shortcut; without '
            'attention, mmpretrain has the backbone'
        ) from e


class StrictPretrained:
    """Mixin for backbones: a ``Pretrained`` init that loads all or stops.

    ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)`` takes the
    path or URL of a checkpoint of this backbone, of the plain one (its
    attention then stays as initialised), or of a whole model that contains
    either as its ``backbone.``.

    Raises:
        ValueError: If an argument is of the wrong type or out of range. When
            weights are loaded, if a key of the backbone is missing in the
            checkpoint, or one of the checkpoint's has no place or another
            shape in the backbone. Only the attention may be missing, and only
            as a whole.
    """

    def __init__(self, *args, **kwargs) -> None:
        for name in ARGUMENTS.keys() & kwargs.keys():
            check_arg(ARGUMENTS[name], **{name: kwargs[name]})
        super().__init__(*args, **kwargs)

    def init_weights(self) -> None:
        cfgs = self.init_cfg
        cfgs = [cfgs] if isinstance(cfgs, Mapping) else cfgs or []
        pretrained = [
            cfg for cfg in cfgs if cfg['type'] in ('Pretrained', PretrainedInit)
        ]
        if pretrained:
            load_pretrained(
                self, pretrained[-1]['checkpoint'], pretrained[-1].get('prefix')
            )
            self.is_init = True
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)  # mmpretrain's returns None
        return self

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights that another library names otherwise, by the names here."""
        return state


def load_pretrained(
    backbone: nn.Module, checkpoint: str, prefix: str | None = None
) -> None:
    """Load a checkpoint into a backbone, see :class:`StrictPretrained`."""
    source = read_state_dict(checkpoint)
    if prefix is None:
        source = strip_prefix(source, None)
        if any(k.startswith('backbone.') for k in source):
            prefix = 'backbone.'
    state = backbone.rename_keys(strip_prefix(source, prefix))

    # Classifiers and heads are not the backbone's business.
    children = dict(backbone.named_children())
    found = load_weights(
        backbone, {k: v for k, v in state.items() if k.split('.')[0] in children}
    )
    attention = {k for k in backbone.state_dict() if '.attention.' in k}
    if not attention & state.keys():
        found['missing'] = [k for k in found['missing'] if k not in attention]
    if any(found.values()):
        raise ValueError(
            f'{checkpoint} does not fit {type(backbone).__name__}: '
            f'{format_mismatch(found)}; give the checkpoint of the same backbone '
            '(depth, stem, width, attention) or change init_cfg'
        )
