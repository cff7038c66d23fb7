"""Measure which families of models ``ra_mm.convert(model, blocks='auto')`` converts.

    python benchmarks/conversion_coverage.py timm|torchvision|mmpretrain|mmdet|mmseg

A family is a module of timm or torchvision, of which a small model is taken, or a kind
of backbone in the configs of an OpenMMLab toolbox. The modules that add a shortcut to a
feature map are counted in the graph that autograd records. Then the model is converted,
its outputs are compared at gamma = 0, and the gradients of gamma are looked at. What
was measured is in the result file, and is not measured again.
"""

import argparse
import contextlib
import functools
import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import ra_mm
from ra_mm._torch import tree_leaves
from ra_mm.conversion import AttentionBlock
from ra_mm.layers import MGRN

RESULTS = Path(__file__).parent / 'results' / 'conversion_coverage.json'
SIZES = 64, 128, 160, 224, 256
WORDS = 'test atto femto pico nano xx xxtiny xxs xs tiny t small s base b'.split()


def find_shortcuts(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[str]]:
    """Return the outputs of a model, and the names of its residual blocks.

    These are the modules with convolutions that add two maps of one input, where one
    was computed from the other, or has passed more convolutions than the other's one
    or none.
    """
    found: dict[Any, str] = {}  # the innermost module of each sum
    inputs: dict[nn.Module, set] = {}

    def enter(module, *args):
        inputs[module] = {t.grad_fn for t in _tensors(args)}

    def leave(module, args, out, name):
        todo, seen = [t.grad_fn for t in _tensors(out)], inputs[module] | {None}
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += [n for n, _ in node.next_functions]
                is_new = node.name() == 'AddBackward0' and node not in found
                if is_new and _is_residual(node, inputs[module]):
                    found[node] = name

    with contextlib.ExitStack() as hooks:
        for name, m in model.named_modules():
            hook = functools.partial(leave, name=name)
            hooks.enter_context(m.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.enter_context(m.register_forward_hook(hook))
        outs = _tensors(model(x))
    names = dict.fromkeys(found.values())
    return outs, [n for n in names if _has_conv(model.get_submodule(n))]


def _has_conv(module):
    return any(isinstance(m, nn.Conv2d) for m in module.modules())


def _is_residual(node, inputs):
    terms = [(n, n._input_metadata[i].shape) for n, i in node.next_functions if n]
    if len(terms) < 2 or terms[0][1] != terms[1][1] or len(terms[0][1]) != 4:
        return False
    _, channels, height, width = terms[0][1]
    a, b = {}, {}
    ends = sorted(_convs(n, inputs, seen) for (n, _), seen in zip(terms, (a, b)))
    is_behind = terms[0][0] in b or terms[1][0] in a
    is_map = height in (channels, width)  # rather than heads of an attention
    is_shortcut = is_behind or (ends[0] < ends[1] and ends[0] <= 1)
    return is_map and is_shortcut and bool(a.keys() & b.keys() & inputs)


def _convs(node, inputs, seen):
    """The convolutions on the longest way from the inputs to a node of autograd."""
    if node not in seen:
        seen[node] = 0
        if node is not None and node not in inputs:
            ways = [_convs(n, inputs, seen) for n, _ in node.next_functions]
            seen[node] = max(ways, default=0) + ('Convolution' in node.name())
    return seen[node]


def measure(name: str, model: nn.Module) -> dict:
    """Convert a model and say what became of its blocks."""
    if sum(p.numel() for p in model.parameters()) > 1e8:
        return dict(not_run=f'{name} is too large')
    torch.manual_seed(0)
    model.eval()
    for p in model.parameters():
        if p.ndim == 1:  # some are initialized to zero
            p.data.add_(torch.randn_like(p), alpha=0.1)
    for size in SIZES:
        x = torch.randn(1, 3, size, size, requires_grad=True) * 1
        with contextlib.suppress(Exception):  # too small, or not made for this size
            before, counted = find_shortcuts(model, x)
            break
    else:
        return dict(not_run=f'{name} accepts no image with a side of {SIZES}')
    log = _convert(model, x.detach()) if counted else ''
    blocks = [n for n, m in model.named_modules() if isinstance(m, AttentionBlock)]
    left = _kinds(model, [name for name in counted if name not in blocks])
    row = dict(model=name, input=size, converted=_kinds(model, blocks), left=left)
    row['reasons'] = {kind: _reason(kind, log) for kind in left}
    if blocks:
        after = _tensors(model(x))
        sum(y.square().mean() for y in after).backward()
        gates = [m.gamma.grad for m in model.modules() if isinstance(m, MGRN)]
        errors = [((a - b).abs().max() / b.abs().max()) for a, b in zip(after, before)]
        learning = sum(g is not None and bool(g.any()) for g in gates)
        row |= dict(error=max(errors).item(), gates=len(gates), learning=learning)
    return row


def _convert(model, x):
    """Convert what can be, and return what is said about the rest."""
    with mock.patch.object(logging.getLogger('ra_mm'), 'info') as info:
        try:
            ra_mm.convert(model, blocks='auto', example=x)
        except ValueError as e:  # nothing is converted
            return str(e)
    return str(info.call_args_list)


def _reason(kind, log):
    found = re.search(rf'\.{kind} \(\d+ of them\) (.*?)(\. |; \w|$)', log)
    return found[1] if found else 'has no residual sum that everything passes through'


def _tensors(tree):
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _kinds(model, names):
    found = map(model.get_submodule, names)
    return dict(Counter(getattr(m, 'plain_class', type(m)).__name__ for m in found))


def find_families(library: str) -> dict:
    """Return functions that return the name of a model and build it, by family."""
    if library.startswith('mm'):
        from openmmlab_families import find_backbones

        return find_backbones(library)
    if library == 'timm':
        import timm

        make, find_module = timm.create_model, timm.model_entrypoint
        names = timm.list_models()
    else:
        from torchvision import models

        make = functools.partial(models.get_model, weights=None)
        names, find_module = models.list_models(models), models.get_model_builder
    small = {}
    for name in sorted(names, key=_size, reverse=True):
        small[find_module(name).__module__.rpartition('.')[2]] = name
    return {f: lambda name=name: (name, make(name)) for f, name in small.items()}


def _size(name):
    """Orders models by the sizes that their names say."""
    ranks = [WORDS.index(part) for part in name.split('_') if part in WORDS]
    return min(ranks, default=99), [int(n) for n in re.findall(r'\d+', name)] or [999]


def table(rows: dict) -> str:
    """Return the families with shortcuts as a table in Markdown."""
    lines = ['| family | model | blocks converted | left out |', '| - | - | - | - |']
    for family, row in sorted(rows.items()):
        done, why = row.get('converted', {}), row.get('reasons', {}).items()
        total = Counter(done) + Counter(row.get('left', {}))
        counts = ', '.join(f'{done.get(k, 0)} of {n} {k}' for k, n in total.items())
        reasons = '; '.join(f'{kind} {reason}' for kind, reason in why)
        reasons = re.sub('(the shortcut): [^;]+', r'\1', reasons)  # the branches
        if total:
            lines.append(f'| {family} | `{row["model"]}` | {counts} | {reasons} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('library', help='timm, torchvision, mmpretrain, mmdet or mmseg')
    parser.add_argument('--families', nargs='+', help='only these; measure them anew')
    parser.add_argument('--out', type=Path, default=RESULTS)
    parser.add_argument('--table', action='store_true', help='print it, run nothing')
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    rows = results.setdefault(args.library, {})
    if args.table:
        return print(table(rows))
    families = find_families(args.library)
    for family in args.families or [f for f in families if f not in rows]:
        try:
            rows[family] = measure(*families[family]())
        except Exception as e:
            rows[family] = dict(not_run=f'{type(e).__name__}: {e}')
        print(family, json.dumps(rows[family]), flush=True)
        args.out.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')


if __name__ == '__main__':
    main()
