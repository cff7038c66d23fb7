"""Find the residual sums of a block by tracing its forward pass with torch.fx.

The block's own modules are the leaves of the trace.
"""

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

MAX_SHORTCUT = 4  # layers on a shortcut, such as a pool, a convolution and its norm
SUMS = operator.add, operator.iadd, torch.add, 'add', 'add_'
JOINS = 'flatten', 'reshape', 'view', 'transpose', 'permute', torch.cat
BY_RULE = 'Add a rule for it, see ra_mm.conversion.add_rule'


class NotDerivable(ValueError):
    """No rule can be derived for a block; the message says why and what helps."""


class NoSum(NotDerivable):
    """The block adds no shortcut."""


class Sum(NamedTuple):
    """A residual sum of a graph: its node, and those of F(x) and of the shortcut."""

    node: fx.Node
    F: fx.Node
    x: fx.Node


def trace(block: nn.Module, inputs: Mapping[str, Any], training: bool) -> fx.Graph:
    """Trace the forward pass of a block in training or evaluation.

    Args:
        block (nn.Module): The block, which is left as it is.
        inputs (dict): By name, the arguments that it is called with. Of tensors and
            numbers, values are not looked at; a list or tuple has always as many
            entries; anything else is a constant.
        training (bool): The mode.

    Raises:
        NotDerivable: If the block cannot be traced.
    """
    try:
        with _mode(block, training):
            graph = _Tracer(inputs).trace(block)
    except Exception as e:  # whatever the block's code raises when it meets a proxy
        reason = str(e).strip().partition('\n')[0]
        raise NotDerivable(
            f'cannot be traced: {type(e).__name__}: {reason}. {BY_RULE}'
        ) from e
    for node in graph.nodes:
        node.type = None  # the code needs no annotations
        if node.op == 'get_attr' and node.target.startswith('_tensor_constant'):
            raise NotDerivable(
                f'makes a tensor that is neither a parameter nor a buffer. {BY_RULE}'
            )
    return graph


@contextmanager
def _mode(block, training):
    """The block in training or evaluation, without checkpointing of its own."""
    before = dict(vars(block))
    block.training = training
    if hasattr(block, 'with_cp'):
        block.with_cp = False
    try:
        yield
    finally:
        vars(block).clear()  # with what a trace has left
        vars(block).update(before)


class _Tracer(fx.Tracer):
    """Traces the forward pass of a block, with its modules as leaves."""

    trace_asserts = True

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs

    def is_leaf_module(self, m, module_qualified_name):
        return True

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        arguments = {name: self._argument(name, v) for name, v in self.inputs.items()}

        @functools.wraps(root_fn)
        def forward(block):
            return root_fn(block, **arguments)

        return forward, [self.root]

    def _argument(self, name, value):
        proxy = self.create_proxy('placeholder', name, (), {})
        proxy.node.meta['tensor'] = has_tensor(value)
        return _unpack(proxy, value)


def has_tensor(value: Any) -> bool:
    """Whether an argument is a tensor or has one."""
    if isinstance(value, list | tuple):
        return any(map(has_tensor, value))
    return isinstance(value, Tensor)


def _unpack(proxy, value):
    """The argument of the forward pass, for a value that it had."""
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(_unpack(proxy[i], v) for i, v in enumerate(value))
    if isinstance(value, Tensor) or type(value) is int:
        return proxy
    torch._assert(proxy == value, f'converted for {proxy.node.name}={value!r} only')
    return value


# The sums


def residual_sums(graph: fx.Graph, block: nn.Module, shortcut: str) -> list[Sum]:
    """Return the residual sums of a block, in the order of the graph.

    A residual sum adds two tensors of one origin, and every path to the output passes
    it; or else its value becomes a part of the output by itself. A tensor that the
    block is called with is a shortcut of any origin.

    Args:
        graph (fx.Graph): The trace of the block. Where a sum of several terms has its
            shortcut among the first, it is rearranged.
        block (nn.Module): The block.
        shortcut (str): A module that is on the shortcut, where the trace alone does
            not tell it from the residual branch.

    Raises:
        NotDerivable: If there is none, or one has no clear shortcut.
    """
    output = next(iter(reversed(graph.nodes)))
    sums = [node for node in graph.nodes if _is_sum(node) and _has_one_origin(node)]
    through = [n for n in sums if not _inputs(_behind(output, without=n))]
    if not through:
        through = [n for n in sums if _joins_output(n)]
    if not through:
        raise NoSum('has no residual sum that everything passes through')
    return [_split(node, graph, block, shortcut) for node in through]


def _split(total, graph, block, shortcut):
    """The branch and the shortcut of a sum."""
    terms = list(_terms(total))
    common = set.intersection(*map(_behind, terms))
    own = {n: _modules(_behind(n) - common) for n in terms}
    depths = {n: _depth(n, own[n], block) for n in terms}
    named = [n for n in terms if shortcut in own[n]]
    least = [n for n, depth in depths.items() if depth == min(depths.values())]
    x = named[0] if len(named) == 1 else least[0]
    unclear = len(least) > 1 or depths[x][0] > MAX_SHORTCUT
    if unclear and len(named) != 1:
        branches = ' and '.join('+'.join(own[n]) or 'the input' for n in terms)
        raise NotDerivable(
            f'adds branches of which none is clearly the shortcut: {branches}. Pass '
            "shortcut='name', a module that is on the shortcut alone"
        )
    if x in total.args:
        return Sum(total, next(n for n in total.args if n is not x), x)
    with graph.inserting_before(total):
        F, *rest = [n for n in terms if n is not x]
        for term in rest:
            F = graph.call_function(operator.add, (F, term))
    total.args = F, x
    for node in reversed(graph.nodes):
        if node.target in SUMS and not node.users:
            graph.erase_node(node)
    return Sum(total, F, x)


def _is_sum(node):
    return (
        node.target in SUMS
        and len(node.args) == 2
        and all(isinstance(n, fx.Node) and _inputs(_behind(n)) for n in node.args)
        and not node.kwargs
    )


def _has_one_origin(total):
    a, b = (_inputs(_behind(n)) for n in total.args)
    return bool(a & b) or any(n.op == 'placeholder' for n in total.args)


def _joins_output(node):
    """Whether a value becomes a part of the output by itself."""
    return all(
        user.op == 'output'
        or _is_metadata(user)
        or (user.target in JOINS and _joins_output(user))
        for user in node.users
    )


def _terms(total: Any) -> Iterator[fx.Node]:
    """The terms of a sum, which may be sums themselves."""
    for node in total.args:
        if _is_sum(node) and len(node.users) == 1:
            yield from _terms(node)
        else:
            yield node


def _behind(node: Any, without: fx.Node | None = None) -> set[fx.Node]:
    """The nodes whose values this one depends on, itself included."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node is not without and node not in seen:
            seen.add(node)
            todo += [] if _is_metadata(node) else node.all_input_nodes
    return seen


def _is_metadata(node):
    """Whether it is a shape or a type, and no value of its input."""
    if node.target is getattr:
        return node.args[1] in ('shape', 'ndim', 'dtype', 'device')
    return node.op == 'call_method' and node.target in ('size', 'dim')


def _inputs(nodes):
    return {n for n in nodes if n.op == 'placeholder' and n.meta['tensor']}


def _modules(nodes: Iterable[fx.Node]) -> list[str]:
    return sorted({str(n.target) for n in nodes if n.op == 'call_module'})


def _depth(node: fx.Node, modules: list[str], block: nn.Module) -> tuple[int, bool]:
    """How many layers a term has; then, whether it is more than an input."""
    layers = [
        m
        for name in modules
        for m in block.get_submodule(name).modules()
        if list(m.parameters(recurse=False)) or not list(m.children())
        if not isinstance(m, nn.Identity)
    ]
    return len(layers), node.op != 'placeholder'
