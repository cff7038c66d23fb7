"""Calls through torch.compile that fall back to eager mode where it fails."""

import functools
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from ra_mm._torch import COMPILES_FUNCTIONS, is_compiling

fx_config: Any = None
with suppress(ImportError):
    from torch.fx.experimental import _config as fx_config


class CompilationFailed(UserWarning):
    """The tails cannot be compiled here and run eagerly."""


_failed = False


def retry_compilation() -> bool:
    """Call torch.compile anew from now on, after a failure too.

    Returns:
        bool: Whether compilation had failed, and tails ran eagerly since.
    """
    global _failed
    _compile.cache_clear()
    failed, _failed = _failed, False
    return failed


def run(function: Callable, compiled: bool, *args: Any) -> Any:
    """Call a function, or its one compiled version for all layers and shapes.

    Args:
        function: A function of tensors and constants without side effects.
        compiled: Whether to compile it. Where that fails, a warning says so
            once, and functions run eagerly from then on.
        *args: Its arguments.
    """
    global _failed
    if not compiled or _failed or not COMPILES_FUNCTIONS or is_compiling():
        return function(*args)
    # Sizes of parameters would be constants.
    args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
    try:
        with _no_duck_shapes(threading.get_ident()):
            return _compile(function)(*args)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as e:  # of any of the compilers
        _failed = True
        reason = str(e).strip().partition('\n')[0]
        warnings.warn(
            'the tails of reverse attention cannot be compiled and run eagerly: '
            f'{type(e).__name__}: {reason}',
            CompilationFailed,
            stacklevel=2,
        )
    return function(*args)


@functools.cache
def _compile(function):
    return torch.compile(function, dynamic=True)


@functools.cache  # since making it takes longer than entering it
def _no_duck_shapes(thread):
    """One graph serves all shapes, even if some sizes were equal at first."""
    if fx_config is None or not hasattr(fx_config, 'use_duck_shape'):
        return nullcontext()
    return fx_config.patch(use_duck_shape=False)
