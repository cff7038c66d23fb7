"""Attention in the residual blocks of a model that exists already.

It needs PyTorch alone: libraries are known by the names of their classes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ra_mm import layers
from ra_mm.layers import ResidualSum
from ra_mm.validation import shorten

from . import rules_openmmlab, rules_timm, rules_torchvision  # noqa: F401
from .block import AttentionBlock, insert_attention
from .rules import IDENTITY, absent_classes, add_chain, add_rule, find_rule, full_name

__all__ = ['IDENTITY', 'AttentionBlock', 'add_chain', 'add_rule', 'convert']


def convert(
    model: nn.Module,
    attention: str | Callable | Mapping = 'ra',
    names: str | Iterable[str] | None = None,
    skip: str | Iterable[str] | None = None,
    log: Callable[[str], object] | None = print,
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
    of its block. In a block whose parameters are all frozen it is frozen, too:
    the block then goes on computing what it computes now.

    The known blocks are those of mmpretrain, mmdet, mmseg, torchvision and
    timm listed in docs/conversion.md; :func:`.add_rule` and :func:`.add_chain`
    add others. Blocks without a shortcut stay as they are.

    Args:
        model (nn.Module): The model, or a part of it.
        attention (str, callable or dict): 'ra' or another key of
            :data:`ra_mm.layers.NAMES`; a :class:`ra_mm.layers.ResidualSum` or
            anything else that returns one when it is called with the number of
            channels; or an OpenMMLab config without ``channels``. Defaults to
            'ra', :class:`ra_mm.layers.ReverseAttention`.
        names (str or list of str, optional): Convert only these blocks or the
            blocks in these modules: names as in ``model.named_modules()``, in
            which ``*`` stands for anything. Defaults to all.
        skip (str or list of str, optional): Leave these out.
        log (callable, optional): Called with the summary of what was converted.
            Defaults to print.
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
    blocks = _choose(model, names, skip)
    # First all that may fail, so that a model is converted or untouched.
    attentions = []
    for block in blocks.values():
        rule = find_rule(type(block))
        attentions.append(build_attention(attention, rule.channels(block), **kwargs))
    for block, layer in zip(blocks.values(), attentions):
        own = list(block.parameters())
        floating = [p for p in own if p.is_floating_point()]
        if floating:
            layer.to(floating[0].device, floating[0].dtype)
        if own and not any(p.requires_grad for p in own):
            layer.requires_grad_(False)
        layer.train(block.training)
        insert_attention(block, layer)
    if log:
        log(_summary(model, attentions))
    return model


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
                attention = layers.NAMES[attention]
            layer = attention(channels, **kwargs)
    except (KeyError, TypeError) as e:
        raise ValueError(
            f'attention={attention!r}: {e.args[0]}. Expected one of '
            f'{", ".join(map(repr, layers.NAMES))}; a subclass of '
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


def _choose(model, names, skip) -> dict[str, nn.Module]:
    """The blocks to convert, by their names."""
    known, converted = {}, []
    for name, module in model.named_modules():
        if isinstance(module, AttentionBlock):
            converted.append(name)
        elif (rule := find_rule(type(module))) and rule.has_shortcut(module):
            known[name] = module
    if not known and not converted:
        raise ValueError(_no_block(model))

    everything = [*known, *converted]
    for patterns in (names, skip):
        for pattern in _as_list(patterns):
            if not any(_matches(n, pattern) for n in everything):
                raise ValueError(
                    f'{pattern!r} matches no residual block of the model. They are '
                    f'{shorten(everything)}'
                )
    chosen = [
        n
        for n in everything
        if (not names or _matches(n, names)) and not _matches(n, skip)
    ]
    again = [n for n in chosen if n in converted]
    if again:
        raise ValueError(
            f'these blocks have an attention already: {shorten(again)}. Convert a '
            'model once, or choose other blocks with names= and skip='
        )
    if not chosen:
        raise ValueError(f'skip={skip!r} leaves no block to convert')
    for name in chosen:
        for attribute in ('attention', 'operands', 'plain_class', 'forward'):
            if attribute in vars(known[name]) or attribute in known[name]._modules:
                raise ValueError(
                    f'{name} ({full_name(type(known[name]))}) has an attribute '
                    f'{attribute!r} of its own, so it cannot be converted'
                )
    return {n: known[n] for n in chosen}


def _as_list(patterns):
    return [patterns] if isinstance(patterns, str) else list(patterns or [])


def _matches(name, patterns):
    """Whether a pattern is for this module or for one that contains it."""
    return any(
        fnmatchcase(name, p) or fnmatchcase(name, f'{p}.*') for p in _as_list(patterns)
    )


def _no_block(model):
    """Why a model has no residual block that could be converted."""
    seen = Counter(full_name(type(m)) for m in model.modules() if list(m.children()))
    containers = 'torch.nn.modules.container.'
    seen = [c for c in seen if not c.startswith(containers)] or [full_name(type(model))]
    message = (
        f'{type(model).__name__} has no residual block with a shortcut and a rule. It '
        f'consists of {shorten(seen, 20)}. If one of these is a residual block, add '
        'a rule for it, see ra_mm.conversion.add_rule'
    )
    absent = absent_classes()
    return (
        f'{message}. Rules name classes that do not exist: {absent}'
        if absent
        else message
    )


def _summary(model, attentions):
    counts = Counter(
        m.plain_class.__name__ for m in model.modules() if isinstance(m, AttentionBlock)
    )
    kinds = Counter(type(layer).__name__ for layer in attentions)
    added = sum(p.numel() for layer in attentions for p in layer.parameters())
    blocks = ', '.join(f'{n} {name}' for name, n in counts.items())
    return f'{", ".join(kinds)} in {blocks} ({added:,} parameters added)'
