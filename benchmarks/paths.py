"""Choose a path by measurement, and make sure that compiled code is compiled."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from torch import nn
from torch.autograd.grad_mode import set_multithreading_enabled

from benchmarks.cases import VARIANTS
from ra_mm.ops import CompilationFailed, retry_compilation
from ra_mm.ops.tuning import MARGIN, fastest_path


@contextmanager
def must_compile() -> Iterator[None]:
    """Raise CompilationFailed where tails would run eagerly instead.

    Compilation is tried, even if it has failed in this process before. Backward
    passes are compiled in the calling thread, on a GPU too: in newer versions of
    PyTorch, each thread has its own settings of the compilers.
    """
    retry_compilation()
    with set_multithreading_enabled(False), warnings.catch_warnings():
        warnings.simplefilter('error', CompilationFailed)
        yield


def choose_path(model: nn.Module, forward: Callable[[nn.Module], object]) -> dict:
    """Choose a path as a training of many steps does.

    Args:
        model (nn.Module), forward (callable): As for :func:`.fastest_path`.

    Returns:
        dict: ``path``, ``tails_ms`` of each path, ``notes`` on those that were
        not measured, and ``cost_s`` of the choice, compilation included where
        nothing was compiled before.
    """
    retry_compilation()  # else the eager code would be timed as 'compiled'
    start = time.perf_counter()
    choice = fastest_path(model, forward, steps=10**9)
    return dict(
        path=choice.path,
        tails_ms={path: 1e3 * s for path, s in choice.seconds.items()},
        notes=choice.notes,
        cost_s=time.perf_counter() - start,
    )


def compare_with_steps(choice: dict, results: list[dict]) -> dict:
    """Tell whether whole steps agree with a choice of :func:`choose_path`.

    Args:
        choice (dict): The choice.
        results (list[dict]): Those of :func:`.measure_case` for the same case.

    Returns:
        dict: The choice, with ``steps_ms`` of each path that the results have,
        and ``is_right``: whether the path is as fast as any of them, to within
        the margin of the choice. None if it is not among them.
    """
    paths = {
        name: variant.path or choice['path']
        for name, variant in VARIANTS.items()
        if variant.attention == 'ra' and not variant.compiles
    }
    steps_ms = {
        paths[r['variant']]: median(own for _, own in r['pairs_ms'])
        for r in results
        if r['variant'] in paths and 'error' not in r
    }
    own = steps_ms.get(choice['path'])
    is_right = own and own <= (1 + MARGIN) * min(steps_ms.values())
    return dict(**choice, steps_ms=steps_ms, is_right=is_right)
