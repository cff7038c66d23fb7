"""Derive the rules of the residual blocks of a model, by tracing them."""

import inspect
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map_only

from ra_mm._torch import tree_leaves
from ra_mm.validation import shorten

from .block import AttentionBlock, used_attribute
from .known import is_known
from .proof import UNKNOWN, count_channels
from .rule_source import compile_rule, derive_source
from .rules import Rule, find_rule, full_name
from .tracing import NoSum, NotDerivable

SHOW_INPUTS = 'Pass example=, an input of the model, which shows those that are used'


def candidate_blocks(model: nn.Module, blocks: Any) -> dict[str, nn.Module]:
    """Find the modules that a rule may be derived for: known blocks, and those asked for.

    Args:
        model (nn.Module): The model.
        blocks (type, str or list of them): Classes of blocks or their names; or
            'auto' for all modules that have others.

    Raises:
        ValueError: If the model has no module of one of the classes.
    """
    modules = {n: m for n, m in model.named_modules() if list(m.children())}
    classes = as_list(blocks)
    for cls in classes:
        if cls != 'auto' and not any(_is_a(m, cls) for m in modules.values()):
            names = {type(m).__name__ for m in modules.values()}
            raise ValueError(
                f'blocks={cls!r}: the model has no module of this class. Its classes '
                f'are {shorten(sorted(names), 40)}'
            )
    return {
        name: m
        for name, m in modules.items()
        if not isinstance(m, AttentionBlock) and not find_rule(type(m))
        if is_known(type(m)) or any(_is_a(m, cls) for cls in classes)
    }


def as_list(value: Any) -> list:
    """A name, a class or several of them, or None, as a list."""
    return [value] if isinstance(value, str | type) else list(value or [])


def _is_a(module, cls):
    if cls == 'auto':
        return not str(type(module).forward.__module__).startswith(('torch.', 'None'))
    if isinstance(cls, str):
        return cls in (type(module).__name__, full_name(type(module)))
    return isinstance(module, cls)


def derive_rules(
    model: nn.Module,
    candidates: Mapping[str, nn.Module],
    blocks: Any,
    shortcut: str,
    example: Any,
) -> tuple[dict[str, Rule], str]:
    """Derive the rules of blocks, and prove that they compute what the blocks do.

    One block of each class and structure is compared with its converted copy.

    Args:
        model (nn.Module): The model.
        candidates (dict): The blocks by name. They are left as they are.
        blocks: As for :func:`candidate_blocks`.
        shortcut (str): As for :func:`.derive_source`.
        example: An input of the model, or a tuple of several. With None, a block has
            one input, of a shape that fits its layers.

    Returns:
        tuple: The rules by name, and why others have none, as one line. It leaves
        out blocks without a residual sum, but not classes that were asked for and
        have such blocks alone.
    """
    calls = {} if example is None else _record_calls(model, candidates, example)
    classes = [cls for cls in as_list(blocks) if cls != 'auto']
    found: dict[str, Rule] = {}
    results: dict[tuple, Rule | NotDerivable] = {}  # by structure
    proved: set[tuple] = set()
    reasons: Counter[tuple[str, str]] = Counter()
    without: Counter[tuple[str, str]] = Counter()
    for name, block in candidates.items():
        try:
            inputs = _inputs_of(block, calls.get(name))
        except NotDerivable as e:
            result: Rule | NotDerivable = e
        else:
            key = _structure(block, inputs)
            if key not in results:
                results[key] = _derive(block, inputs, shortcut, proved)
            result = results[key]
        if isinstance(result, Rule):
            found[name] = result
        else:
            counter = without if isinstance(result, NoSum) else reasons
            counter[full_name(type(block)), str(result)] += 1
    asked = {m for m in candidates.values() if any(_is_a(m, cls) for cls in classes)}
    names = {full_name(type(m)) for m in asked}
    names -= {full_name(type(candidates[name])) for name in found}
    reasons |= Counter({k: n for k, n in without.items() if k[0] in names})
    lines = [f'{cls} ({n} of them) {why}' for (cls, why), n in reasons.items()]
    return found, '; '.join(lines)


def _structure(block, inputs):
    """What blocks of equal rules and channels have in common."""
    own = {n: repr(v) for n, v in vars(block).items() if not n.startswith('_')}
    own |= {n: str(t.shape) for n, t in block.named_parameters(recurse=False)}
    shapes = [str(v.shape if isinstance(v, Tensor) else v) for v in tree_leaves(inputs)]
    return type(block), repr(block), *own.items(), *inputs, *shapes


def _derive(block, inputs, shortcut, proved):
    """The rule of a block, proved once for each class, or why it has none."""
    try:
        rule = compile_rule(_source_of(block, inputs, shortcut))
        channels = count_channels(block, rule, inputs, (type(block), rule) in proved)
        if any(v is UNKNOWN for v in inputs.values()) and _looks_at_types(block):
            raise NotDerivable(f'may have inputs of several types. {SHOW_INPUTS}')
    except NotDerivable as e:
        return e
    proved.add((type(block), rule))
    return rule._replace(channels=lambda block: channels)


def _looks_at_types(block):
    """Whether its forward pass asks isinstance, which a trace does not show."""
    code = getattr(inspect.unwrap(type(block).forward), '__code__', None)
    return code is not None and 'isinstance' in code.co_names


def _record_calls(
    model: nn.Module, blocks: Mapping[str, nn.Module], example: Any
) -> dict[str, tuple]:
    """The arguments of each block when the model is called with the example."""
    calls: dict[str, tuple] = {}
    modes = {m: m.training for m in model.modules()}

    def record(name, block, args, kwargs):
        calls.setdefault(name, (args, kwargs))

    handles = [
        block.register_forward_pre_hook(partial(record, name), with_kwargs=True)
        for name, block in blocks.items()
    ]
    try:
        model.eval()  # so that statistics stay as they are
        with torch.no_grad():
            model(*example if isinstance(example, tuple) else [example])
    finally:
        for handle in handles:
            handle.remove()
        for m, training in modes.items():
            m.training = training
    return calls


def _source_of(block: nn.Module, inputs: dict[str, Any], shortcut: str) -> str:
    is_map = any(isinstance(m, _ConvNd | _BatchNorm) for m in block.modules())
    try:
        source = derive_source(block, inputs, shortcut)
    except NotDerivable as e:
        if is_map or isinstance(e, NoSum):
            raise
    if not is_map:
        raise NotDerivable('adds tokens or vectors, not feature maps (N, C, *)')
    if attribute := used_attribute(block):
        raise NotDerivable(f'has an attribute {attribute!r} of its own')
    if hasattr(block, 'rfp_forward'):  # DetectoRS
        raise NotDerivable('is also called by rfp_forward, whose sum would stay')
    return source


def _inputs_of(block: nn.Module, call: tuple | None) -> dict[str, Any]:
    """The arguments of the block by name, their tensors without values."""
    signature = inspect.signature(block.forward)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if call is None and len(names) == 1:
        return dict.fromkeys(names, UNKNOWN)
    if call is None:
        raise NotDerivable(f'has several inputs. {SHOW_INPUTS}')
    args, kwargs = call
    inputs = signature.bind(*args, **kwargs).arguments
    return tree_map_only(Tensor, lambda t: t.to('meta'), dict(inputs))
