"""Derive the rule of a residual block by tracing its forward pass with torch.fx.

The block's own modules are the leaves of the trace. If the trace has one residual
sum, it is cut there: what comes before computes the operands, as a written rule
does, and what follows is the activation. Both parts become code that refers to the
block's modules by their names, so that one rule serves all blocks of a structure.
"""

import functools
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from .rules import IDENTITY, Rule, _does_nothing, split_norm

RELU = nn.ReLU()
RELUS = nn.functional.relu, torch.relu, 'relu', 'relu_'
MAX_SHORTCUT = 4  # layers on a shortcut, such as a pool, a convolution and its norm
SUMS = operator.add, operator.iadd, torch.add, 'add', 'add_'


class NotDerivable(ValueError):
    """No rule can be derived for a block; the message says why and what helps."""


class NoSum(NotDerivable):
    """The block adds no shortcut."""


def derive_source(block: nn.Module, inputs: Iterable[str], shortcut: str = '') -> str:
    """Return the code of a rule for this block, see :func:`compile_rule`.

    Args:
        block (nn.Module): The block, which is left as it is.
        inputs (iterable of str): The parameters of its ``forward`` that get a tensor.
        shortcut (str): A module that is on the shortcut, where the trace alone does
            not tell it from the residual branch.

    Raises:
        NotDerivable: If the block cannot be traced, or has not one residual sum that
            is the same in training and evaluation.
    """
    sources = []
    for training in (True, False):
        with _mode(block, training):
            graph = _trace(block, inputs)
            sources.append(
                _source(graph, block, *_residual_sum(graph, block, shortcut))
            )
    if sources[0] != sources[1]:
        raise NotDerivable(
            'computes something else in training than in evaluation, beyond what its '
            'modules do. Add a rule for it, see ra_mm.conversion.add_rule'
        )
    return sources[0]


@functools.cache
def compile_rule(source: str) -> Rule:
    """Return the rule whose code :func:`derive_source` returned."""
    names: dict[str, Any] = {}
    exec(compile(source, '<derived rule>', 'exec'), names)
    return Rule(names['operands'], source=source)


def end_of_branch(x: Tensor, *modules: nn.Module) -> tuple[Tensor, Callable]:
    """z and norm such that ``norm(z)`` is what the modules compute from x."""
    modules = tuple(m for m in modules if not _does_nothing(m))
    if not modules:
        return x, IDENTITY
    *first, last = modules
    for module in first:
        x = module(x)
    return split_norm(last, x)


# The trace


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

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs

    def is_leaf_module(self, m, module_qualified_name):
        return True

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        arguments = {
            name: self.create_proxy('placeholder', name, (), {}) for name in self.inputs
        }

        @functools.wraps(root_fn)
        def forward(block):
            return root_fn(block, **arguments)

        return forward, [self.root]


def _trace(block, inputs):
    try:
        graph = _Tracer(inputs).trace(block)
    except Exception as e:  # whatever the block's code raises when it meets a proxy
        reason = str(e).strip().partition('\n')[0]
        raise NotDerivable(
            f'cannot be traced: {type(e).__name__}: {reason}. Add a rule for it, see '
            'ra_mm.conversion.add_rule'
        ) from e
    for node in graph.nodes:
        node.type = None  # the code needs no annotations
        if node.op == 'get_attr' and node.target.startswith('_tensor_constant'):
            raise NotDerivable(
                'makes a tensor that is neither a parameter nor a buffer. Add a rule '
                'for it, see ra_mm.conversion.add_rule'
            )
    return graph


# The sum


def _residual_sum(
    graph: fx.Graph, block: nn.Module, shortcut: str
) -> tuple[fx.Node, fx.Node, fx.Node]:
    """The one residual sum, its branch and its shortcut."""
    sums = _residual_sums(graph)
    if not sums:
        raise NoSum('has no residual sum that everything passes through')
    if len(sums) > 1:
        raise NotDerivable(
            f'has {len(sums)} residual sums, of which one attention can replace one. '
            'Add a rule that chooses it, see ra_mm.conversion.add_rule'
        )
    a, b = sums[0].all_input_nodes
    terms = list(_terms(sums[0]))
    common = set.intersection(*map(_behind, terms))
    own = {n: _modules(_behind(n) - common) for n in {a, b, *terms}}
    depths = {n: _depth(n, own[n], block) for n in terms}
    named = [n for n in (a, b) if shortcut in own[n]]
    least = [n for n, depth in depths.items() if depth == min(depths.values())]
    x = named[0] if len(named) == 1 else least[0]
    unclear = len(least) > 1 or x not in (a, b) or depths[x][0] > MAX_SHORTCUT
    if unclear and len(named) != 1:
        branches = ' and '.join('+'.join(own[n]) or 'the input' for n in terms)
        raise NotDerivable(
            f'adds branches of which none is clearly the shortcut: {branches}. Pass '
            "shortcut='name', a module that is on the shortcut alone"
        )
    return sums[0], b if x is a else a, x


def _residual_sums(graph: fx.Graph) -> list[fx.Node]:
    """Sums of two tensors of one origin that every path to the output passes.

    A tensor that the block is called with is a shortcut of any origin.
    """
    output = _output(graph)
    return [
        node
        for node in graph.nodes
        if _is_sum(node)
        and (
            set.intersection(*(_inputs(_behind(n)) for n in node.args))
            or any(n.op == 'placeholder' for n in node.args)
        )
        and not _inputs(_behind(output, without=node))
    ]


def _is_sum(node):
    return (
        node.target in SUMS
        and len(node.args) == 2
        and all(isinstance(n, fx.Node) and _inputs(_behind(n)) for n in node.args)
        and not node.kwargs
    )


def _terms(total: Any) -> Iterator[fx.Node]:
    """The terms of a sum, which may be sums themselves."""
    for node in total.args:
        if _is_sum(node) and len(node.users) == 1:
            yield from _terms(node)
        else:
            yield node


def _output(graph: fx.Graph) -> fx.Node:
    return next(iter(reversed(graph.nodes)))


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
    return {n for n in nodes if n.op == 'placeholder'}


def _modules(nodes: Iterable[fx.Node]) -> list[str]:
    return sorted({str(n.target) for n in nodes if n.op == 'call_module'})


def _depth(node: fx.Node, modules: list[str], block: nn.Module) -> tuple[int, bool]:
    """How many layers a term has; then, whether it is more than an input."""
    layers = [
        m
        for name in modules
        for m in block.get_submodule(name).modules()
        if not list(m.children()) and not isinstance(m, nn.Identity)
    ]
    return len(layers), node.op != 'placeholder'


# The code


def _source(
    graph: fx.Graph, block: nn.Module, total: fx.Node, F: fx.Node, x: fx.Node
) -> str:
    """The code that computes the operands of a sum, and what follows it."""
    nodes: list[Any] = list(graph.nodes)
    at = nodes.index(total)
    act, needed, after = _after(nodes[:at], total, nodes[at + 1 :])
    before = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    last = _last_modules(F, total, block)
    for node in nodes[:at]:
        if node not in last:
            env[node] = before.node_copy(node, env.__getitem__)
    z = env[last[0].args[0] if last else F]
    modules = [before.get_attr(node.target) for node in last]
    rest = [env.get(n) or before.get_attr(str(n.target)) for n in needed]
    pair = before.call_function(end_of_branch, (z, *modules))
    before.output((pair, env[x], *rest))
    return f"""from functools import partial
from {__name__} import IDENTITY, RELU
{_code(before, 'before')}{after}def operands(self, *args, **kwargs):
    (z, norm), shortcut, *needed = before(self, *args, **kwargs)
    return z, norm, shortcut, {act}
"""


def _last_modules(F: Any, total: fx.Node, block: nn.Module) -> list[Any]:
    """The last module of a branch that has parameters, and those after it."""
    modules: list[Any] = []
    node, user = F, total
    while node.op == 'call_module' and set(node.users) == {user}:
        if len(node.all_input_nodes) > 1 or len(node.args) > 1 or node.kwargs:
            break
        modules.insert(0, node)
        if list(block.get_submodule(node.target).parameters()):
            break
        node, user = node.args[0], node
    return modules


def _after(
    first: list[Any], total: fx.Node, rest: list[Any]
) -> tuple[str, list[fx.Node], str]:
    """The activation as an expression, the nodes that it needs, and its code."""
    *rest, output = rest
    if not rest and output.args == (total,):
        return 'IDENTITY', [], ''
    if len(rest) == 1 and rest[0].args == (total,) and output.args == (rest[0],):
        if rest[0].op == 'call_module' and not rest[0].kwargs:
            return 'needed[0]', rest, ''
        if rest[0].target in RELUS:
            return 'RELU', [], ''
    used = {n for node in [*rest, output] for n in node.all_input_nodes}
    needed = [n for n in first if n in used]
    graph = fx.Graph()
    env = {node: graph.placeholder(node.name) for node in (*needed, total)}
    for node in rest:
        env[node] = graph.node_copy(node, env.__getitem__)
    graph.output(fx.node.map_arg(output.args[0], env.__getitem__))
    return 'partial(after, self, *needed)', needed, _code(graph, 'after')


def _code(graph: fx.Graph, name: str) -> str:
    """The imports and the code of a function."""
    code = graph.python_code('self')
    source = code.src.strip().replace('def forward(', f'def {name}(', 1)
    imports = []
    value: Any
    for alias, value in code.globals.items():
        if not re.search(rf'\b{alias}\b', source):
            continue
        if isinstance(value, ModuleType):
            imports.append(f'import {value.__name__} as {alias}')
        elif isinstance(value, float):
            imports.append(f'from math import {alias}')
        elif value == getattr(sys.modules[value.__module__], value.__name__, None):
            imports.append(
                f'from {value.__module__} import {value.__name__} as {alias}'
            )
        else:
            raise NotDerivable(f'calls {value!r}, which has no name to import it by')
    return '\n'.join([*imports, '', source, '', ''])
