"""The bytes that the operators of the tails read and write, on each path.

An operator's tensors count once each: what it reads, and what it writes. An
operator of PyTorch may read a tensor twice (batch norm does, when training),
which the count leaves out. Kernels of inductor count in the same way, by its
own accounting. The figures do not vary and predict the time where memory is
the bottleneck, as on a GPU with large batches.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from benchmarks.cases import VARIANTS, Case, tails
from benchmarks.cost_tables import markdown_table, title
from benchmarks.measuring import Step
from benchmarks.paths import must_compile
from ra_mm.ops import CompilationFailed
from ra_mm.ops.cpu_reductions import as_on_gpu
from ra_mm.ops.tuning import compiler_available

ALLOCATIONS = ('aten::empty', 'aten::new_empty')


class ByteCounter(TorchDispatchMode):
    """Sum the bytes of the tensors of all operators in a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
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
    """Count the bytes in memory; an expanded dimension counts once."""
    count = t.element_size() if t.numel() else 0
    for size, stride in zip(t.shape, t.stride()):
        count *= size if stride else 1
    return count


def count_bytes(case: Case, variant: str) -> int:
    """Count the bytes of one step of the tails, forward and backward.

    Uncompiled, the code is that for a GPU. Compiled, it is that for the case's
    device, and vectors outside the compiled code do not count.

    Args:
        case (Case): With ``what='tail'``.
        variant (str): A key of VARIANTS.

    Raises:
        CompilationFailed: If the path 'compiled' cannot be compiled here.
    """
    if VARIANTS[variant].compiles or VARIANTS[variant].path == 'compiled':
        if not compiler_available(case.device):
            raise CompilationFailed('no compiler')
        return _count_compiled_bytes(case, variant)
    step = Step(case, variant, case.inputs())
    with as_on_gpu():
        step()  # the optimizer, and autograd's first gradients
        with ByteCounter() as counter:
            step()
    return counter.bytes


def _count_compiled_bytes(case, variant):
    step = Step(case, variant, case.inputs())
    counts, total = {}, 0
    with inductor_bytes() as so_far, must_compile():
        for kind, m, *tensors in zip(tails(case), step.model, *step.inputs):
            if kind not in counts:  # inductor counts for the shapes it compiles for
                torch._dynamo.reset()
                before = so_far()
                step.model, step.inputs = nn.ModuleList([m]), [[t] for t in tensors]
                step()
                counts[kind] = so_far() - before
            total += counts[kind]
    if not all(counts.values()):
        raise CompilationFailed('inductor compiled nothing, or counted nothing')
    return total


@contextmanager
def inductor_bytes() -> Iterator[Callable[[], int]]:
    """Count what the kernels read and write that inductor compiles in the block.

    Everything is compiled anew.

    Yields:
        callable: Returns the bytes so far.
    """
    import torch._functorch.config as functorch_config
    from torch._inductor import config, metrics  # slow

    # Inductor counts what it logs.
    log = logging.getLogger('torch._inductor.compile_fx.__inductor_metrics')
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        with (  # whose entries have the counts of other shapes
            config.patch(fx_graph_cache=False),
            functorch_config.patch(enable_autograd_cache=False),
        ):
            yield lambda: metrics.num_bytes_accessed
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]


def lower_bound(case: Case) -> int:
    """Count z, x and y, and for the gradients z, x, y, dy, dz and dx, once."""
    size = 2 if case.precision == 'amp' else 4
    return 9 * size * sum(shape.numel() for shape, _ in tails(case))


def bytes_table(case: Case, variants: list[str]) -> str:
    """Tabulate the bytes of each variant that has a path, beside the lower bound.

    Args:
        case (Case): With ``what='tail'``.
        variants (list[str]): Keys of VARIANTS besides 'plain'.
    """
    counts, failures = {'each tensor once': lower_bound(case)}, []
    for variant in ('plain', *variants):
        if VARIANTS[variant].path is not None:
            try:
                counts[variant] = count_bytes(case, variant)
            except CompilationFailed as e:
                failures.append([variant, str(e), ''])
    rows = [
        [name, f'{count / 1e6:.1f}', f'{count / counts["plain"]:.2f}']
        for name, count in counts.items()
    ]
    table = markdown_table(['tails', 'MB', 'ratio'], [*rows, *failures])
    return f'{title(vars(case))}\n\n{table}\n'
