"""The function that puts an attention into the residual blocks of a model."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ra_mm.layers import ATTENTIONS, ResidualSum
from ra_mm.validation import shorten

from .block import AttentionBlock, insert_attention
from .rules import Rule, find_rule, full_name

logger = logging.getLogger('ra_mm')


def convert(
    model: nn.Module,
    attention: str | Callable | Mapping = 'ra',
    names: str | Iterable[str] | None = None,
    skip: str | Iterable[str] | None = None,
    **kwargs,
) -> nn.Module:
    """Put an attention into the residual blocks of a model, in place.

    The sum ``F(x) + x`` of each block becomes ``attention(F(x), x)``. With
    reverse attention, whose gamma starts at 0, the model computes what it
    computed before: weights may be pre-trained or not. The names in the state
    dict stay as they are; those of the attentions are added.

    Convert before the optimizer is made, before DistributedDataParallel and
    torch.compile, and before loading the weights of a converted model. For
    reverse attention, anneal its temperature: :class:`ra_mm.TempSchedule`.

    An attention has the device, the floating point type and the training mode
    of its block. In a block whose parameters are all frozen it is frozen as well,
    so that the block computes what it computed before.

    The known blocks are those of mmpretrain, mmdet, mmseg, torchvision and
    timm listed in docs/conversion.md; :func:`.add_rule` and :func:`.add_chain`
    add others. Blocks without a shortcut stay as they are. The logger 'ra_mm'
    gets the :func:`summarize` of the model, at the level INFO.

    Args:
        model (nn.Module): The model, or a part of it.
        attention (str, callable or dict): 'ra' or another key of
            :data:`ra_mm.layers.ATTENTIONS`; a :class:`ra_mm.layers.ResidualSum` or
            anything else that returns one when it is called with the number of
            channels; or an OpenMMLab config without ``channels``. Defaults to
            'ra', :class:`ra_mm.layers.ReverseAttention`.
        names (str or list of str, optional): Convert only these blocks or the
            blocks in these modules: names as in ``model.named_modules()``, in
            which ``*`` stands for anything. Defaults to all.
        skip (str or list of str, optional): Leave these out.
        **kwargs: Arguments of the attention besides channels, for example
            ``aggregation='l1'``.

    Returns:
        nn.Module: The same model.

    Raises:
        ValueError: If no block of the model has a rule, a name matches no
            block, a block is converted already, or the attention is none.
    """
    if any(isinstance(m, DistributedDataParallel) for m in model.modules()):
        raise ValueError(
            'convert the model before it is wrapped in DistributedDataParallel, which '
            'would not synchronize the gradients of its attentions'
        )
    blocks = _choose(model, _as_list(names), _as_list(skip))
    # First what may fail, so that a model is converted as a whole or not at all.
    attentions = [
        build_attention(attention, rule.channels(block), **kwargs)
        for block, rule in blocks
    ]
    for (block, rule), layer in zip(blocks, attentions):
        match_block(layer, block)
        insert_attention(block, rule, layer)
    logger.info(summarize(model))
    return model


def match_block(layer: nn.Module, block: nn.Module) -> None:
    """Give an attention the device, dtype, training mode and frozenness of its block."""
    own = list(block.parameters())
    floating = [p for p in own if p.is_floating_point()]
    if floating:
        layer.to(floating[0].device, floating[0].dtype)
    if own and not any(p.requires_grad for p in own):
        layer.requires_grad_(False)
    layer.train(block.training)


def build_attention(
    attention: str | Callable | Mapping, channels: int, **kwargs
) -> ResidualSum:
    """Build the attention of a block, see :func:`convert`."""
    try:
        if isinstance(attention, Mapping):
            # OpenMMLab's registries, which are not needed otherwise
            from ra_mm.registry import MODELS

            layer = MODELS.build(dict(**attention, **kwargs, channels=channels))
        else:
            if isinstance(attention, str):
                attention = ATTENTIONS[attention]
            layer = attention(channels, **kwargs)
    except (KeyError, TypeError) as e:
        raise ValueError(
            f'attention={attention!r}: {e.args[0]}. Expected one of '
            f'{", ".join(map(repr, ATTENTIONS))}; a subclass of '
            'ra_mm.layers.ResidualSum or a function of channels that returns one; or '
            'in OpenMMLab the config, without channels, of one, such as '
            "dict(type='ra_mm.ReverseAttention')"
        ) from e
    if not isinstance(layer, ResidualSum):
        raise ValueError(
            f'attention={attention!r}: {type(layer).__name__} is not a subclass of '
            'ra_mm.layers.ResidualSum, whose forward(F, x) returns the sum. For a '
            'module that maps F(x) to F(x) there is ra_mm.layers.OnResidual'
        )
    return layer


def _find_blocks(model) -> dict[str, tuple[Any, Any]]:
    """All residual blocks with their rules, or None where one has an attention."""
    blocks: dict[str, tuple[Any, Any]] = {}
    for name, module in model.named_modules():
        rule = find_rule(type(module))
        if isinstance(module, AttentionBlock):
            blocks[name] = module, None
        elif rule and rule.has_shortcut(module):
            blocks[name] = module, rule
    if not blocks:
        raise ValueError(_no_block(model))
    return blocks


def _choose(model, names, skip) -> list[tuple[nn.Module, Rule]]:
    """The blocks to convert, with their rules."""
    known = _find_blocks(model)
    for pattern in names + skip:
        if not any(_matches(name, [pattern]) for name in known):
            raise ValueError(
                f'{pattern!r} matches no residual block of the model. They are '
                f'{shorten(known)}'
            )
    chosen = {
        name: block
        for name, block in known.items()
        if (not names or _matches(name, names)) and not _matches(name, skip)
    }
    if not chosen:
        raise ValueError(f'skip={skip} leaves no block to convert')
    if converted := [name for name, (_, rule) in chosen.items() if rule is None]:
        raise ValueError(
            f'these blocks have an attention already: {shorten(converted)}. Convert a '
            'model once, or choose other blocks with names= and skip='
        )
    for name, (block, _) in chosen.items():
        children = dict(block.named_children())
        for attribute in ('attention', 'operands', 'plain_class', 'forward'):
            if attribute in vars(block) or attribute in children:
                raise ValueError(
                    f'{name} ({full_name(type(block))}) has an attribute '
                    f'{attribute!r} of its own, so it cannot be converted'
                )
    return list(chosen.values())


def _as_list(patterns):
    return [patterns] if isinstance(patterns, str) else list(patterns or [])


def _matches(name, patterns):
    """Whether a pattern is for this module or for one that contains it."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f'{p}.*') for p in patterns)


def _no_block(model) -> str:
    """Why a model has no residual block that could be converted."""
    composite = [type(m) for m in model.modules() if list(m.children())]
    names = dict.fromkeys(map(full_name, composite or [type(model)]))
    seen = [c for c in names if not c.startswith('torch.nn.modules.container.')]
    return (
        f'{type(model).__name__} has no residual block with a shortcut and a rule. It '
        f'consists of {shorten(seen or names, 20)}. If one of these is a residual '
        'block, add a rule for it, see ra_mm.conversion.add_rule'
    )


def summarize(model: nn.Module) -> str:
    """Describe in one line which blocks of a model have an attention."""
    blocks = [m for m in model.modules() if isinstance(m, AttentionBlock)]
    converted = Counter(block.plain_class for block in blocks)
    plain = Counter(type(m) for m in model.modules() if find_rule(type(m)))
    kinds = dict.fromkeys(type(block.attention).__name__ for block in blocks)
    added = sum(p.numel() for block in blocks for p in block.attention.parameters())
    counts = ', '.join(
        f'{n} of {n + plain[cls]} {cls.__name__}' for cls, n in converted.items()
    )
    return f'{", ".join(kinds)} in {counts} blocks: {added:,} parameters added'
