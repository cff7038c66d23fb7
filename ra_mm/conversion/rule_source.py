"""Derive the code of a rule from the trace of a block.

The trace is cut at the residual sum: what comes before computes the operands, as a
written rule does, and what follows is the activation. Both parts become code that
refers to the block's modules by their names, so that one rule serves all blocks of a
structure.
"""

import functools
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from .rules import IDENTITY, Rule, _does_nothing, split_norm
from .tracing import BY_RULE, NotDerivable, Sum, residual_sums, trace

RELU = nn.ReLU()
RELUS = nn.functional.relu, torch.relu, 'relu', 'relu_'


def derive_source(
    block: nn.Module, inputs: Mapping[str, Any], shortcut: str = ''
) -> str:
    """Return the code of a rule for this block, see :func:`compile_rule`.

    Args:
        block (nn.Module): The block, which is left as it is.
        inputs (dict): As for :func:`.trace`.
        shortcut (str): As for :func:`.residual_sums`.

    Raises:
        NotDerivable: If the block cannot be traced, or has no residual sum that is
            the same in training and evaluation.
    """
    sources = []
    for training in (True, False):
        graph = trace(block, inputs, training)
        sources.append(_source(graph, block, residual_sums(graph, block, shortcut)))
    if sources[0] != sources[1]:
        raise NotDerivable(
            'computes something else in training than in evaluation, beyond what its '
            f'modules do. {BY_RULE}'
        )
    return sources[0]


@functools.cache
def compile_rule(source: str) -> Rule:
    """Return the rule whose code :func:`derive_source` returned."""
    names: dict[str, Any] = {}
    exec(compile(source, '<derived rule>', 'exec'), names)
    return Rule(names['operands'], source=source, sums=names['SUMS'])


def end_of_branch(x: Tensor, *modules: nn.Module) -> tuple[Tensor, Callable]:
    """z and norm such that ``norm(z)`` is what the modules compute from x."""
    modules = tuple(m for m in modules if not _does_nothing(m))
    if not modules:
        return x, IDENTITY
    *first, last = modules
    for module in first:
        x = module(x)
    return split_norm(last, x)


def like_sum(z: Tensor, x: Tensor) -> Tensor:
    """z in the memory format that the sum x + z has."""
    return z.contiguous() if x.is_contiguous() else z


def _source(graph: fx.Graph, block: nn.Module, sums: list[Sum]) -> str:
    """The code that computes the operands of the last sum, and what follows it.

    The sums before are attentions of their own.
    """
    *earlier, (total, F, x) = sums
    nodes: list[Any] = list(graph.nodes)
    at = nodes.index(total)
    act, needed, after = _after(nodes[:at], total, nodes[at + 1 :])
    before = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    last = _last_modules(F, total, block)
    attentions = {s.node: (i, s) for i, s in enumerate(earlier, 1)}
    for node in nodes[:at]:
        if node in attentions:
            i, (_, *pair) = attentions[node]
            args = tuple(env[n] for n in pair)
            env[node] = before.create_node('call_module', f'attention_{i}', args)
        elif node not in last:
            env[node] = before.node_copy(node, env.__getitem__)
    z = env[last[0].args[0] if last else F]
    if total.args[0] is x and any(n.target == 'permute' for n in nodes[:at]):
        z = before.call_function(like_sum, (z, env[x]))
    modules = [before.get_attr(node.target) for node in last]
    rest = [env.get(n) or before.get_attr(str(n.target)) for n in needed]
    end = before.call_function(end_of_branch, (z, *modules))
    before.output((end, env[x], *rest))
    return f"""from functools import partial
from {__name__} import IDENTITY, RELU
SUMS = {len(sums)}
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
