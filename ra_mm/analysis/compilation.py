"""Measure compiled code only if it is compiled."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch.autograd.grad_mode import set_multithreading_enabled

from ra_mm.ops.dispatch import CompilationFailed, retry_compilation


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
