"""Checkpoints that must fit the model, where mmengine only warns."""

import re
from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ra_mm.errors import warn
from ra_mm.validation import shorten


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Load weights as far as they fit, and tell what does not.

    Args:
        model (nn.Module): Not wrapped.
        weights (Mapping): By name, from a checkpoint.

    Returns:
        dict[str, list[str]]: The names that are 'missing', 'unexpected' and,
        with both shapes, 'size mismatch', each list empty if all is well.
        Counters of batches (num_batches_tracked) may be missing.

    Raises:
        ValueError: If an entry cannot be loaded for another reason.
    """
    own, weights, resized = model.state_dict(), dict(weights), {}
    try:
        missing, excess = model.load_state_dict(weights, strict=False)
    except RuntimeError as e:  # other shapes are an error all the same
        for key in re.findall(r'size mismatch for (\S+):', str(e)):
            resized[key] = (
                f'{key} {tuple(weights.pop(key).shape)} instead '
                f'of {tuple(own[key].shape)}'
            )
        if not resized:
            raise ValueError(str(e)) from e
        missing, excess = model.load_state_dict(weights, strict=False)
    return {
        'missing': [key for key in missing if key not in resized],
        'unexpected': excess,
        'size mismatch': list(resized.values()),
    }


def strip_prefix(
    weights: Mapping[str, Tensor], prefix: str | None
) -> dict[str, Tensor]:
    """The weights below a prefix, as mmengine selects and names them.

    Args:
        weights (Mapping): By name.
        prefix (str, optional): With or without the dot at its end.

    Returns:
        dict: By the rest of the name, without a wrapper's ``module.`` too.
    """
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return {re.sub(r'^module\.', '', k): v for k, v in weights.items()}


def format_mismatch(found: Mapping[str, list[str]]) -> str:
    """What :func:`load_weights` found, in words."""
    return '; '.join(
        f'{len(keys)} {kind} {shorten(keys, 3)}' for kind, keys in found.items() if keys
    )


class StrictLoadHook(Hook):
    """Stop when a checkpoint does not fit the model that it is loaded into.

    Testing and resuming need the whole model. Training from ``load_from``
    needs the backbone; neck and heads may be new, for other classes. The
    attention may be absent, as a whole, from a checkpoint to train from. RA
    may also be absent from one to test, with a warning, since with gamma = 0
    the model computes what the plain one computes.

    Args:
        whole (bool): Whether the whole model is needed, or the backbone.

    Raises:
        ValueError: While the checkpoint is loaded, if entries are missing, in
            excess or size mismatch.
    """

    priority = 'LOWEST'  # behind hooks that rearrange the checkpoint

    def __init__(self, whole: bool) -> None:
        self.whole = whole

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        weights = strip_prefix(checkpoint.get('state_dict', checkpoint), None)
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        own = [
            key for key in model.state_dict() if not key.endswith('num_batches_tracked')
        ]
        found = load_weights(model, weights)
        attention = {key for key in own if '.attention.' in key}
        neutral = all(key.endswith(('.gamma', '.temp')) for key in attention)
        if (
            attention
            and not attention & weights.keys()
            and weights.keys() & set(own)
            and (neutral and not getattr(runner, '_resume', False) or not self.whole)
        ):
            found['missing'] = [key for key in found['missing'] if key not in attention]
            if self.whole:
                warn(
                    'the checkpoint has no reverse attention: with gamma = 0 '
                    'the model computes what the plain one computes'
                )
        if not self.whole and weights.keys() & set(own):
            found = {
                kind: [k for k in keys if k.startswith('backbone.')]
                for kind, keys in found.items()
            }
        if any(found.values()):
            raise ValueError(
                'the checkpoint does not fit the model, '
                f'{_reason(found, own)}: {format_mismatch(found)}'
            )


def _reason(found, own):
    keys = [key for kind in found.values() for key in kind]
    if len(found['missing']) >= len(own):
        return 'it is of another kind of model'
    if any('.attention.' in key for key in found['unexpected']):
        return 'it was trained with an attention that the config lacks'
    if any(key.startswith('backbone.') for key in keys):
        return 'its backbone is another one (depth, stem, width, attention)'
    return 'it was trained with another config or for other classes'
