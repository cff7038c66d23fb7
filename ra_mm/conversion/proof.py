"""Prove that a derived rule computes what its block does, on maps made for it."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map_only

from ra_mm._torch import tree_leaves
from ra_mm.layers import ResidualSum, ReverseAttention
from ra_mm.ops.paths import BATCH_NORMS, force_path

from .block import attention_names, insert_attentions
from .rules import Rule
from .tracing import BY_RULE, NotDerivable

# Sides of the maps that a rule is proved with, by their number of dimensions. Those of
# signals are unusual widths, since a linear layer accepts (N, C, L) as tokens (N, L, C).
SIZES = {1: (56, 88, 104), 2: (8, 16, 32, 40, 56), 3: (8, 16, 24)}
WIDTHS = 'in_channels num_features num_channels out_channels in_features'.split()
UNKNOWN = torch.empty(0, device='meta')  # the only argument, of whatever shape


def count_channels(
    block: Any, rule: Rule, inputs: dict[str, Any], proved: bool
) -> tuple[int, ...]:
    """Return the channels of the sums, with a proof unless the rule is proved already.

    Args:
        block (nn.Module): The block, which is left as it is.
        rule (Rule): Its derived rule.
        inputs (dict): The arguments of the block by name, their tensors without values.
        proved (bool): Whether the rule is known to compute what such blocks do.

    Raises:
        NotDerivable: If the block takes no feature maps, or is no equal of its
            converted copy: in outputs, in gradients, in training or in evaluation.
    """
    weight = next(p for p in block.parameters() if p.is_floating_point())
    device = torch.device('cpu') if weight.is_meta else weight.device
    generators = torch.random.fork_rng([device] if weight.is_cuda else [])
    amp = torch.autocast(device.type, enabled=False)
    with device, generators, amp, force_path('reference'), torch.enable_grad():
        torch.manual_seed(0)
        plain = _copy_for_proof(block, weight)
        made, channels = _run_operands(plain, rule, inputs)
        if not proved:
            _prove(plain, rule, made, channels)
    return channels


def _copy_for_proof(block: Any, weight: Tensor) -> Any:
    """A copy that runs on any device, and by itself."""
    plain = copy.deepcopy(block)
    if weight.is_meta:
        plain.to_empty(device='cpu')
        for t in (*plain.parameters(), *plain.buffers()):
            t.data.fill_(1)
    # A comparison of half precision would be slow on a CPU, and coarse.
    plain.to(torch.promote_types(weight.dtype, torch.float32))
    norm: Any = BATCH_NORMS[2 + spatial_dims(block)]
    for m in plain.modules():
        m.with_cp = False  # OpenMMLab's checkpointing knows no torch.autograd.grad
        if isinstance(m, nn.SyncBatchNorm):  # of a GPU, and of all processes
            m.__class__ = norm
    with torch.no_grad():
        for p in plain.parameters():
            if p.is_floating_point():  # some are zero, huge or not initialized
                p.nan_to_num_().clamp_(-1, 1).add_(torch.randn_like(p), alpha=0.1)
    return plain


def _prove(
    plain: nn.Module, rule: Rule, inputs: dict[str, Any], channels: tuple[int, ...]
) -> None:
    """Compare a block with its converted copy, in training and evaluation."""
    converted = copy.deepcopy(plain)
    weight = next(p for p in plain.parameters() if p.is_floating_point())
    layers = [ReverseAttention(n).to(weight) for n in channels]
    insert_attentions(converted, rule, layers)
    for training in (True, False):
        for model in (plain, converted):
            model.train(training)
        try:
            expected = _outputs_and_gradients(plain, inputs)
            ours = _outputs_and_gradients(converted, inputs)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        except (AssertionError, RuntimeError, ValueError) as e:
            raise NotDerivable(
                f'does not compute what its trace does: {e}. {BY_RULE}'
            ) from e


def _run_operands(
    block: Any, rule: Rule, inputs: dict[str, Any]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Inputs that the block accepts, and the channels of its sums' operands."""
    weight = next(p for p in block.parameters() if p.is_floating_point())
    error: Any = None
    added: list[tuple[torch.Size, torch.Size]] = []
    for name in attention_names(rule.sums)[:-1]:
        layer = ResidualSum()
        layer.register_forward_hook(
            lambda m, args, out: added.append((args[0].shape, args[1].shape))
        )
        setattr(block, name, layer)
    for shapes in _shapes(block, inputs):
        made = tree_map_only(Tensor, lambda t: torch.randn(t.shape).to(weight), shapes)
        try:
            with torch.no_grad():
                block(**_clone(made))
        except Exception as e:  # the shape does not fit
            error = error or e
            continue
        z, _, x, _ = rule.operands(block, **_clone(made))
        added.append((z.shape, x.shape))
        for shape, other in added:
            if shape != other or not _is_map(shape, block, shapes):
                raise NotDerivable(
                    f'adds tensors of shape {tuple(shape)} and {tuple(other)}, not two '
                    'feature maps (N, C, *)'
                )
        return made, tuple(shape[1] for shape, _ in added)
    reason = str(error).strip().partition('\n')[0]
    raise NotDerivable(
        f'cannot be tried with a feature map (N, C, *): {reason}. Pass example=, an '
        'input of the model, if it takes others'
    )


def _is_map(shape: torch.Size, block: nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether it is (N, C, *), and neither (N, H, W, C) nor heads (N, heads, L, C)."""
    ndim = 2 + spatial_dims(block)
    widths = list(_widths(block))
    sides = {n for t in _tensors(inputs) if t.ndim == ndim for n in t.shape[2:]}
    if len(shape) != ndim or (not sides and shape[1] not in widths):
        return False
    is_unclear = shape[1] == shape[-2] and shape[-1] in widths
    return ndim == 3 or not (is_unclear and sides & set(widths))


def _shapes(block: nn.Module, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Inputs to try, without values: small maps, then what it was called with."""
    widths = list(dict.fromkeys(_widths(block)))
    n = spatial_dims(block)
    ((name, called), *others) = inputs.items()
    if not others and (called is UNKNOWN or getattr(called, 'ndim', 0) == 2 + n):
        known = [] if called is UNKNOWN else [called.shape[1]]
        for channels in known or [*widths, *(2 * w for w in widths)][:8]:
            for size in SIZES[n]:
                if size not in widths:  # or the map might be (N, H, W, C)
                    shape = (2, channels, *n * (size,))
                    yield {name: torch.empty(shape, device='meta')}
    if called is not UNKNOWN:  # batch norm needs two values in training
        yield tree_map_only(
            Tensor, lambda t: t.expand(2, *t.shape[1:]) if len(t) == 1 else t, inputs
        )


def spatial_dims(block: nn.Module) -> int:
    """The number of spatial dimensions of its maps, by its convolutions."""
    convs = (m for m in block.modules() if isinstance(m, _ConvNd))
    return max((len(m.kernel_size) for m in convs), default=2)


def _widths(block: nn.Module) -> Iterator[int]:
    """The channels of its layers, the first layer's first."""
    for m in block.modules():
        for name in WIDTHS:
            if isinstance(value := getattr(m, name, None), int):
                yield value


def _outputs_and_gradients(block: nn.Module, inputs: dict[str, Any]) -> tuple:
    """Its outputs, and the gradients of a loss of them."""
    torch.manual_seed(0)  # for dropout and stochastic depth
    leaves = tree_map_only(Tensor, lambda t: t.clone().requires_grad_(), inputs)
    outs = tree_leaves(block(**_clone(leaves)))
    loss = torch.stack([(out * out.detach().cos()).sum() for out in outs]).sum()
    weights = [p for n, p in block.named_parameters() if not n.startswith('attention')]
    sources = _tensors(leaves) + [p for p in weights if p.requires_grad]
    return outs, torch.autograd.grad(
        loss, sources, allow_unused=True, materialize_grads=True
    )


def _tensors(inputs: Any) -> list[Tensor]:
    return [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]


def _clone(inputs: dict[str, Any]) -> dict[str, Any]:
    """Copies, since a block may change its inputs in place."""
    return tree_map_only(Tensor, torch.clone, inputs)
