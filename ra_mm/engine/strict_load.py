"""Load weights strictly: a mismatch is an error, where mmengine only warns."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from logging import WARNING
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ra_mm.errors import UserError, translate_errors
from ra_mm.layers.residual_sum import excuse_attention
from ra_mm.validation import shorten


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Load the weights that fit and report the others.

    Args:
        model: A model without wrappers.
        weights: By name, from a checkpoint.

    Returns:
        Names under 'missing', 'unexpected', 'size mismatch' (with both shapes)
        and 'integer'. ``num_batches_tracked`` is never missing.

    Raises:
        UserError: If a weight cannot be loaded for another reason.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wrong = [key for key in shapes if own.get(key, shapes[key]) != shapes[key]]
    resized = {key: f'{key} {shapes[key]} instead of {own[key]}' for key in wrong}
    fitting = {k: v for k, v in weights.items() if k not in resized}
    with translate_errors('the weights cannot be loaded'):
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    return {
        'missing': [key for key in missing if key not in resized],
        'unexpected': unexpected,
        'size mismatch': list(resized.values()),
        'integer': find_integers(model, weights),
    }


def find_integers(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the weights of floats for which integers are given, which are quantized."""
    floats = [k for k, v in model.state_dict().items() if v.is_floating_point()]
    return [k for k in floats if k in weights and not weights[k].is_floating_point()]


def strip_prefix(
    weights: Mapping[str, Tensor], prefix: str | None
) -> dict[str, Tensor]:
    """Select the weights under a prefix and remove it, as mmengine does.

    Args:
        weights: By name.
        prefix: With or without the dot at its end. None selects all weights
            and removes the ``module.`` of a model wrapper.
    """
    if prefix:
        prefix = prefix.removesuffix('.') + '.'
        return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return {k.removeprefix('module.'): v for k, v in weights.items()}


def find_prefix(
    names: Collection[str],
    weights: Mapping[str, Any],
    rename: Callable[[Mapping], Mapping] = dict,
) -> str | None:
    """Find the prefix under which a checkpoint has the weights of a model.

    Wrappers and whole models add prefixes, such as ``model.``, ``_orig_mod.`` or
    ``module.encoder_q.``.

    Args:
        names: The weights of the model.
        weights: Those of the checkpoint, by name.
        rename: Converts the names of other libraries, without the prefix.

    Returns:
        The prefix, with a dot, with which most names are in the checkpoint; the first
        of several. None if that is the empty one.
    """
    parents = (key.split('.')[:-1] for key in weights)
    prefixes = ([*names[:n], ''] for names in parents for n in range(1, len(names) + 1))
    sizes = Counter(map('.'.join, prefixes))
    large = [prefix for prefix, size in sizes.items() if 2 * size >= len(names)]

    def count(prefix):
        known = rename(strip_prefix(weights, prefix) if prefix else weights)
        return sum(name in known for name in names)

    counts = {prefix: count(prefix) for prefix in ['', *large]}
    best = max(counts, key=lambda prefix: counts[prefix])
    equal = [prefix for prefix in counts if counts[prefix] == counts[best] > 0]
    if len(equal) > 1:
        text = f'{best!r} is taken of the prefixes {shorten(equal)}, which fit alike'
        print_log(text, 'current', WARNING)
    return best or None


def format_mismatch(found: Mapping[str, list[str]]) -> str:
    """Format the result of :func:`load_weights` as a phrase."""
    kinds = ((kind, keys) for kind, keys in found.items() if keys)
    return '; '.join(f'{len(keys)} {kind} {shorten(keys, 3)}' for kind, keys in kinds)


def load_strict(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    scope: str = 'model',
    allow_plain: bool = True,
) -> None:
    """Load weights into a model, or stop if they do not fit.

    Args:
        model: May be wrapped, for several GPUs or for test-time augmentation.
        weights: By name, from a checkpoint; all of them may have a prefix, as in
            checkpoints of a wrapper.
        scope: 'model' if everything must fit; 'backbone' for weights to start
            training from: neck and heads may be new, and all of the attention
            may be missing.
        allow_plain: Whether weights without reverse attention fit a model with
            it. With gamma = 0 it computes what the plain model computes.

    Raises:
        UserError: If keys are missing or unexpected, or sizes differ.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module  # type: ignore[assignment]
    own = model.state_dict().keys()
    prefix = None if own & weights.keys() else find_prefix(own, weights)
    weights = strip_prefix(weights, prefix)
    found = load_weights(model, weights)
    if own & weights.keys():  # otherwise nothing is excused
        _excuse_plain_weights(model, found, scope, allow_plain)
        if scope == 'backbone':
            found = _excuse_new_heads(found)
    if any(found.values()):
        advice = 'use one of the same backbone, attention and classes'
        text = f'the checkpoint does not fit the model: {format_mismatch(found)}'
        if scope == 'backbone' and find_prefix(weights.keys(), model.state_dict()):
            advice = 'give weights of a backbone as model.backbone.init_cfg.checkpoint'
        raise UserError(f'{text}; {advice}, or change the config')


def _excuse_plain_weights(model, found, scope, allow_plain):
    """Remove the attention from the missing weights, if all of it may be missing."""
    others = excuse_attention(model, found['missing'])
    absent = {*found['missing']} - {*others}
    is_ra = all(key.endswith(('.gamma', '.temp')) for key in absent)
    if absent and (scope == 'backbone' or (is_ra and allow_plain)):
        found['missing'] = others
        if scope == 'model':
            text = 'The checkpoint has no reverse attention: with gamma = 0 the model'
            print_log(f'{text} computes what the plain one does.', 'current', WARNING)


def _excuse_new_heads(found):
    """Return the mismatches of the backbone, and warn of the others."""
    backbone, others = {}, {}
    for kind, keys in found.items():
        backbone[kind] = [key for key in keys if key.startswith('backbone.')]
        others[kind] = [key for key in keys if not key.startswith('backbone.')]
    if any(others.values()):
        text = f'Not loaded, outside of the backbone: {format_mismatch(others)}'
        print_log(text, 'current', WARNING)
    return backbone
