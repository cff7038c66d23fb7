"""Measure compiled code only if it is compiled."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ra_mm.ops.dispatch import CompilationFailed, retry_compilation


@contextmanager
def must_compile() -> Iterator[None]:
    """Raise CompilationFailed where tails would run eagerly instead.

    Compilation is tried, even if it has failed in this process before.
    """
    retry_compilation()
    with warnings.catch_warnings():
        warnings.simplefilter('error', CompilationFailed)
        yield
