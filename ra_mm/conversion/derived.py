"""Derive and prove rules for the residual blocks of a model that none is written for."""

import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ra_mm.layers import ReverseAttention
from ra_mm.ops.paths import force_path
from ra_mm.validation import shorten

from .block import AttentionBlock, insert_attention, used_attribute
from .rules import Rule, find_rule, full_name
from .tracing import NoSum, NotDerivable, compile_rule, derive_source

# Sides of the maps that a rule is proved with, by their number of dimensions. Those of
# signals are unusual widths, since a linear layer accepts (N, C, L) as tokens (N, L, C).
SIZES = {1: (56, 88, 104), 2: (8, 16, 32), 3: (8, 16)}


def candidate_blocks(model: nn.Module, blocks: Any) -> dict[str, nn.Module]:
    """Find the modules of these classes that no rule is written for.

    Args:
        model (nn.Module): The model.
        blocks (type, str or list of them): Classes of blocks or their names; or
            'auto' for all modules that have others.

    Raises:
        ValueError: If the model has no module of one of the classes.
    """
    modules = {n: m for n, m in model.named_modules() if list(m.children())}
    classes = [blocks] if isinstance(blocks, str | type) else list(blocks)
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
        if any(_is_a(m, cls) for cls in classes)
    }


def _is_a(module, cls):
    if cls == 'auto':
        return not type(module).forward.__module__.startswith('torch.')
    if isinstance(cls, str):
        return cls in (type(module).__name__, full_name(type(module)))
    return isinstance(module, cls)


def derive_rules(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    auto: bool,
    shortcut: str,
    example: Any,
) -> tuple[dict[str, Rule], str]:
    """Derive the rules of blocks, and prove that they compute what the blocks do.

    One block of each class and structure is compared with its converted copy.

    Args:
        model (nn.Module): The model.
        blocks (dict): The blocks by name. They are left as they are.
        auto (bool): Whether modules without a residual sum are as expected as blocks.
        shortcut (str): As for :func:`.derive_source`.
        example: An input of the model, or a tuple of several. With None, a block has
            one input, of a shape that fits its layers.

    Returns:
        tuple: The rules by name, and why others have none, as one line. It leaves
        out blocks without a residual sum, but not classes of such blocks alone.
    """
    calls = {} if example is None else _record_calls(model, blocks, example)
    rules: dict[str, Rule] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    without: Counter[tuple[str, str]] = Counter()
    proved: set[tuple] = set()
    for name, block in blocks.items():
        try:
            inputs = _inputs_of(block, calls.get(name))
            rule = compile_rule(_source_of(block, inputs, shortcut))
            kind = type(block), rule
            channels = _channels(block, rule, inputs, kind in proved)
            proved.add(kind)
            rules[name] = rule._replace(channels=_constant(channels))
        except NotDerivable as e:
            counter = without if isinstance(e, NoSum) else reasons
            counter[full_name(type(block)), str(e)] += 1
    known = {full_name(type(blocks[name])) for name in rules}
    if not auto:
        reasons |= Counter({k: n for k, n in without.items() if k[0] not in known})
    lines = [f'{cls} ({n} of them) {why}' for (cls, why), n in reasons.items()]
    return rules, '; '.join(lines)


def _constant(value):
    return lambda block: value


def _record_calls(
    model: nn.Module, blocks: Mapping[str, nn.Module], example: Any
) -> dict[str, tuple]:
    """The arguments of each block when the model is called with the example."""
    calls: dict[str, tuple] = {}
    modes = {m: m.training for m in model.modules()}
    handles = [
        block.register_forward_pre_hook(
            lambda block, args, kwargs, name=name: calls.setdefault(
                name, (args, kwargs)
            ),
            with_kwargs=True,
        )
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
    ndim = 2 + _spatial_dims(block)
    is_map &= all(shape is None or len(shape) == ndim for shape in inputs.values())
    try:
        source = derive_source(block, inputs, shortcut)
    except NotDerivable as e:
        if is_map or isinstance(e, NoSum):
            raise
    if not is_map:
        raise NotDerivable('adds tokens or vectors, not feature maps (N, C, *)')
    if attribute := used_attribute(block):
        raise NotDerivable(f'has an attribute {attribute!r} of its own')
    return source


def _inputs_of(block: nn.Module, call: tuple | None) -> dict[str, Any]:
    """The shapes of the block's inputs by parameter, None for an unknown one."""
    signature = inspect.signature(block.forward)
    if call is None and len(signature.parameters) == 1:
        return dict.fromkeys(signature.parameters)
    if call is None:
        raise NotDerivable(
            'has several inputs. Pass example=, an input of the model, which shows '
            'those that are used'
        )
    args, kwargs = call
    inputs = signature.bind(*args, **kwargs).arguments
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            raise NotDerivable(
                f'is called with {name}, which is no tensor. Add a rule for it, see '
                'ra_mm.conversion.add_rule'
            )
    return {name: value.shape for name, value in inputs.items()}


# The proof


def _channels(block: Any, rule: Rule, inputs: dict[str, Any], proved: bool) -> int:
    """The channels of the sum, with a proof unless the rule is proved already."""
    weight = next(p for p in block.parameters() if p.is_floating_point())
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices), force_path('reference'), torch.enable_grad():
        torch.manual_seed(0)
        # A comparison of half precision would be slow on a CPU, and coarse.
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        weight = weight.to('meta') if proved else weight
        plain = copy.deepcopy(block).to(weight)
        made, channels = _run_operands(plain, rule, inputs, weight)
        if not proved:
            _prove(plain, rule, made, channels, weight)
    return channels


def _prove(
    plain: nn.Module,
    rule: Rule,
    inputs: dict[str, Tensor],
    channels: int,
    weight: Tensor,
) -> None:
    """Compare a block with its converted copy, in training and evaluation."""
    with torch.no_grad():
        for p in plain.parameters():
            if p.is_floating_point():  # some are initialized to zero
                p.add_(torch.randn_like(p), alpha=0.1)
    converted = copy.deepcopy(plain)
    layer = ReverseAttention(channels).to(weight.device, weight.dtype)
    insert_attention(converted, rule, layer)
    for training in (True, False):
        expected = _outputs_and_gradients(plain.train(training), inputs)
        ours = _outputs_and_gradients(converted.train(training), inputs)
        try:
            torch.testing.assert_close(ours, expected)
        except AssertionError as e:
            raise NotDerivable(
                f'does not compute what its trace does: {e}. Add a rule for it, see '
                'ra_mm.conversion.add_rule'
            ) from e


def _run_operands(
    block: nn.Module, rule: Rule, inputs: dict[str, Any], weight: Tensor
) -> tuple[dict[str, Tensor], int]:
    """Inputs that the block accepts, and the channels of the sum's operands."""
    error: Any = None
    for shapes in _shapes(block, inputs):
        made = {name: torch.randn(shape).to(weight) for name, shape in shapes.items()}
        try:
            with torch.no_grad():
                block(**_clone(made))
        except Exception as e:  # the shape does not fit
            error = error or e
            continue
        z, _, shortcut, _ = rule.operands(block, **_clone(made))
        if z.shape != shortcut.shape or z.ndim != 2 + _spatial_dims(block):
            raise NotDerivable(
                f'adds tensors of shape {tuple(z.shape)} and {tuple(shortcut.shape)}, '
                'not two feature maps (N, C, *)'
            )
        return made, z.shape[1]
    reason = str(error).strip().partition('\n')[0]
    raise NotDerivable(
        f'cannot be tried with a feature map (N, C, *): {reason}. Pass example=, an '
        'input of the model, if it takes others'
    )


def _shapes(
    block: nn.Module, inputs: dict[str, Any]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of inputs to try: small maps, then those it was called with."""
    widths = list(dict.fromkeys(_widths(block)))
    n = _spatial_dims(block)
    called = [shape for shape in inputs.values() if shape is not None]
    if len(inputs) == 1:
        known = [shape[1] for shape in called]
        for channels in known or [*widths, *(2 * w for w in widths)][:8]:
            for size in SIZES[n]:
                if size != channels:  # or the map might be (N, H, W, C)
                    yield dict.fromkeys(inputs, (2, channels, *n * (size,)))
    if called and all(shape[1] in widths for shape in called):
        yield inputs


def _spatial_dims(block: nn.Module) -> int:
    """The number of spatial dimensions of its maps, by its convolutions."""
    convs = (m for m in block.modules() if isinstance(m, _ConvNd))
    return max((len(m.kernel_size) for m in convs), default=2)


def _widths(block: nn.Module) -> Iterator[int]:
    """The channels of its layers, the first layer's first."""
    for m in block.modules():
        for name in ('in_channels', 'num_features', 'num_channels', 'out_channels'):
            if isinstance(value := getattr(m, name, None), int):
                yield value


def _outputs_and_gradients(block: nn.Module, inputs: dict[str, Tensor]) -> tuple:
    """Its outputs, and the gradients of a loss of them."""
    torch.manual_seed(0)  # for dropout and stochastic depth
    leaves = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    outs = block(**_clone(leaves))
    outs = [outs] if isinstance(outs, Tensor) else list(outs)
    loss = torch.stack([(out * out.detach().cos()).sum() for out in outs]).sum()
    weights = [p for n, p in block.named_parameters() if not n.startswith('attention.')]
    sources = [*leaves.values(), *(p for p in weights if p.requires_grad)]
    return outs, torch.autograd.grad(
        loss, sources, allow_unused=True, materialize_grads=True
    )


def _clone(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, since a block may change its inputs in place."""
    return {name: t.clone() for name, t in inputs.items()}
