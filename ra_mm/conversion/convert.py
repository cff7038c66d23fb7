"""The function that puts an attention into the residual blocks of a model."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import fx, nn

from ra_mm.layers import ATTENTIONS, ResidualSum
from ra_mm.validation import shorten

from .block import AttentionBlock, insert_attentions, used_attribute
from .derived import as_list, candidate_blocks, derive_rules
from .rules import Rule, find_rule, full_name

logger = logging.getLogger('ra_mm')

WRAPPERS = {
    'AveragedModel',
    'BaseAveragedModel',  # of MMEngine
    'DataParallel',
    'DistributedDataParallel',
    'FullyShardedDataParallel',
    'ModelEmaV2',
    'ModelEmaV3',
    'OptimizedModule',  # of torch.compile
}


def convert(
    model: nn.Module,
    attention: str | Callable | Mapping = 'ra',
    names: str | Iterable[str] | None = None,
    skip: str | Iterable[str] | None = None,
    *,
    blocks: type | str | Iterable[type | str] | None = None,
    shortcut: str = '',
    example: Any = None,
    **kwargs: Any,
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

    The known blocks are those of mmpretrain, mmdet, mmseg, torchvision and timm
    listed in docs/conversion.md; ``blocks`` adds others, and :func:`.add_rule` those
    that cannot be traced. Each block is traced by torch.fx, and its converted copy is
    compared with it before the model is changed. Blocks without a shortcut stay as
    they are. A block that adds two shortcuts one after the other gets an attention in
    each sum. The logger 'ra_mm' gets the :func:`.summarize` of the model, at the level
    INFO.

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
        blocks (type, str or list, optional): Classes of residual blocks, or their
            names, to convert besides those that are known. The shortcut is the branch
            with fewer layers. 'auto' looks for all blocks with a residual sum.
        shortcut (str): A module in the blocks that is on the shortcut
            alone, where both branches have equally many layers.
        example (optional): An input of the model, or a tuple of several, for blocks
            that have several inputs or need a special shape.
        **kwargs: Arguments of the attention besides channels, for example
            ``aggregation='l1'``.

    Returns:
        nn.Module: The same model.

    Raises:
        ValueError: If the model has no such block, one cannot be traced, a name
            matches no block, a block is converted already, or the attention is none.
    """
    classes = {c.__name__ for m in model.modules() for c in type(m).__mro__}
    if wrappers := classes & WRAPPERS:
        raise ValueError(
            f'convert the model before it is wrapped in {", ".join(wrappers)}, which '
            'would not know the attentions'
        )
    if kwargs.get('log', '') is None:  # no message, as it is now by default
        del kwargs['log']
    chosen = _choose(model, as_list(names), as_list(skip), blocks, shortcut, example)
    # First what may fail, so that a model is converted as a whole or not at all.
    attentions = [
        [build_attention(attention, n, **kwargs) for n in _channels(rule, block)]
        for block, rule in chosen
    ]
    for (block, rule), layers in zip(chosen, attentions):
        for layer in layers:
            match_block(layer, block)
        insert_attentions(block, rule, layers)
    logger.info(summarize(model))
    if any(p.is_meta for p in model.parameters()):
        warnings.warn(
            'on the meta device an attention has no values until weights of a converted '
            'model are loaded: load those of a plain one before you convert it',
            stacklevel=2,
        )
    return model


def _channels(rule, block):
    channels = rule.channels(block)
    return channels if isinstance(channels, tuple) else (channels,)


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
    attention: str | Callable | Mapping, channels: int, **kwargs: Any
) -> ResidualSum:
    """Build the attention of a block, see :func:`ra_mm.convert`."""
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


def _find_blocks(model: nn.Module) -> dict[str, tuple[Any, Any]]:
    """All residual blocks with their rules, or None where one has an attention."""
    blocks: dict[str, tuple[Any, Any]] = {}
    for name, module in model.named_modules():
        rule = find_rule(type(module))
        if isinstance(module, AttentionBlock):
            blocks[name] = module, None
        elif rule and rule.has_shortcut(module):
            blocks[name] = module, rule
    return blocks


def _choose(
    model: nn.Module,
    names: list[str],
    skip: list[str],
    blocks: Any,
    shortcut: str,
    example: Any,
) -> list[tuple[nn.Module, Rule]]:
    """The blocks to convert, with their rules."""
    known = _find_blocks(model)
    traced = candidate_blocks(model, blocks)
    if not known and not traced:
        raise ValueError(_no_block(model))
    for pattern in names + skip:
        if not any(_matches(name, [pattern]) for name in (*known, *traced)):
            raise ValueError(
                f'{pattern!r} matches no residual block of the model. They are '
                f'{shorten([*known, *traced])}'
            )

    def is_chosen(name):
        return (not names or _matches(name, names)) and not _matches(name, skip)

    chosen = {name: block for name, block in known.items() if is_chosen(name)}
    traced = {name: block for name, block in traced.items() if is_chosen(name)}
    rules, refused = derive_rules(model, traced, blocks, shortcut, example)
    if refused and blocks != 'auto':
        raise ValueError(refused)
    chosen |= {name: (traced[name], rule) for name, rule in rules.items()}
    if not chosen:
        reason = _no_block(model)
        if skip and (known or candidate_blocks(model, blocks)):
            reason = f'skip={skip} leaves no block to convert'
        raise ValueError('. '.join(filter(None, [reason, refused])))
    if refused:
        logger.info('not converted: %s', refused)
    if converted := [name for name, (_, rule) in chosen.items() if rule is None]:
        raise ValueError(
            f'these blocks have an attention already: {shorten(converted)}. Convert a '
            'model once, or choose other blocks with names= and skip='
        )
    for name, (block, _) in chosen.items():
        if attribute := used_attribute(block):
            raise ValueError(
                f'{name} ({full_name(type(block))}) has an attribute {attribute!r} of '
                'its own, so it cannot be converted'
            )
    return list(chosen.values())


def _matches(name, patterns):
    """Whether a pattern is for this module or for one that contains it."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f'{p}.*') for p in patterns)


def _no_block(model: nn.Module) -> str:
    """Why a model has no residual block that could be converted."""
    if isinstance(model, fx.GraphModule):
        return 'The model was traced, which leaves no blocks: convert it before'
    composite = [type(m) for m in model.modules() if list(m.children())]
    names = dict.fromkeys(map(full_name, composite or [type(model)]))
    seen = [c for c in names if not c.startswith('torch.nn.modules.container.')]
    return (
        f'{type(model).__name__} has no known residual block with a shortcut. It '
        f'consists of {shorten(seen or names, 20)}. If one of these is a residual '
        "block, name it in blocks=, or pass blocks='auto'"
    )


def summarize(model: nn.Module) -> str:
    """Describe in one line which blocks of a model have an attention."""
    blocks = [m for m in model.modules() if isinstance(m, AttentionBlock)]
    converted = Counter(block.plain_class for block in blocks)
    plain = Counter(type(m) for m in model.modules())
    layers = [m for b in blocks for m in b.children() if isinstance(m, ResidualSum)]
    kinds = dict.fromkeys(type(layer).__name__ for layer in layers)
    added = sum(p.numel() for layer in layers for p in layer.parameters())
    counts = ', '.join(
        f'{n} of {n + plain[cls]} {cls.__name__}' for cls, n in converted.items()
    )
    return f'{", ".join(kinds)} in {counts} blocks: {added:,} parameters added'
