"""The bytes that the operators of the tails read and write, on each path.

An operator's tensors count once each: what it reads, and what it writes. A
kernel may read a tensor twice (batch norm does, when training), which the
count leaves out for all variants alike. The figures are exact and predict the
time where memory is the bottleneck, as on a GPU with large batches.
"""

from dataclasses import asdict

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ra_mm.analysis.benchmark_cases import VARIANTS, Case, tails
from ra_mm.analysis.benchmarking import Step
from ra_mm.analysis.cost_report import title
from ra_mm.ops.cpu_reductions import as_on_gpu

ALLOCATIONS = ('aten::empty', 'aten::new_empty')


class ByteCounter(TorchDispatchMode):
    """Sum the bytes of the tensors of all operators in a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        schema = func._schema
        views = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        if views or schema.name.startswith(ALLOCATIONS):
            return out
        read = [
            t
            for a, t in zip(schema.arguments, args)
            if not (schema.name == 'aten::copy_' and a.name == 'self')
            for t in tree_flatten(t)[0]
        ]
        tensors = {id(t): t for t in read if isinstance(t, Tensor)}.values()
        written = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor)]
        self.bytes += sum(map(_bytes, [*tensors, *written]))
        return out


def _bytes(t):
    """Of the values in memory: an expanded dimension counts once."""
    count = t.element_size() if t.numel() else 0
    for size, stride in zip(t.shape, t.stride()):
        count *= size if stride else 1
    return count


def count_bytes(case: Case, variant: str) -> int:
    """Count the bytes of one step of the tails, forward and backward.

    Args:
        case (Case): With ``what='tail'``.
        variant (str): An uncompiled key of VARIANTS.
    """
    step = Step(case, variant, case.inputs())
    with as_on_gpu():
        step()  # the optimizer, and autograd's first gradients
        with ByteCounter() as counter:
            step()
    return counter.bytes


def lower_bound(case: Case) -> int:
    """Count z, x and y, and for the gradients z, x, y, dy, dz and dx, once."""
    size = 2 if case.precision == 'amp' else 4
    return 9 * size * sum(shape.numel() for shape, _ in tails(case))


def bytes_table(case: Case, variants: list[str]) -> str:
    """Tabulate the bytes of uncompiled variants beside the lower bound."""
    rows = {'each tensor once': lower_bound(case)} | {
        v: count_bytes(case, v)
        for v in variants
        if not VARIANTS[v][2] and VARIANTS[v][1] != 'compiled'
    }
    lines = [title(asdict(case)), '', '| tails | MB | ratio |', '| --- | ---: | ---: |']
    lines += [
        f'| {name} | {count / 1e6:.1f} | {count / rows["plain"]:.2f} |'
        for name, count in rows.items()
    ]
    return '\n'.join(lines) + '\n'
