"""What differs between the versions of PyTorch, from 2.1 on, in one place."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import serialization

from .restricted_pickle import ForbiddenGlobal, load_restricted

try:  # whether torch.compile or torch.export traces this call
    from torch.compiler import is_compiling
except ImportError:  # before PyTorch 2.3
    from torch._dynamo import is_compiling

# Whether torch.compile serves our functions: 2.1 compiles them anew for each shape,
# and does not understand autograd functions.
COMPILES_FUNCTIONS = torch.__version__ >= (2, 5)

__all__ = [
    'COMPILES_FUNCTIONS',
    'cpu_mixes_dtypes',
    'allow_globals',
    'forbidden_globals',
    'is_compiling',
    'legacy_exporter',
    'load_weights_only',
    'set_stance',
]


@functools.cache
def cpu_mixes_dtypes() -> bool:
    """Whether Tensor.addcmul_ on the CPU takes factors of higher precision."""
    low, high = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    try:
        low.addcmul_(low, high)
    except RuntimeError:  # in PyTorch 2.1
        return False
    return True


def set_stance(stance: str) -> None:
    """:func:`torch.compiler.set_stance`; without effect before PyTorch 2.6."""
    if hasattr(torch.compiler, 'set_stance'):
        torch.compiler.set_stance(stance)


def legacy_exporter() -> Mapping[str, Any]:
    """The arguments of :func:`torch.onnx.export` that select its older exporter.

    Before PyTorch 2.5 it is the only one, and there is nothing to select.
    """
    parameters = inspect.signature(torch.onnx.export).parameters
    return {'dynamo': False} if 'dynamo' in parameters else {}


def allow_globals(allowed: Sequence[Callable]) -> None:
    """Add to what ``torch.load(weights_only=True)`` accepts, in all of this process.

    Without effect before PyTorch 2.4, whose list is fixed, and whose
    :func:`torch.load` runs the code in a checkpoint unless told otherwise.

    Args:
        allowed: Classes and functions. A checkpoint calls them by their
            ``__module__`` and ``__qualname__``.
    """
    if hasattr(serialization, 'add_safe_globals'):
        serialization.add_safe_globals(list(allowed))


def load_weights_only(
    path: str | os.PathLike, map_location: Any, allowed: Sequence[Callable]
) -> Any:
    """Read a file of :func:`torch.save` without running code.

    Args:
        path: The file.
        map_location: The device for its tensors.
        allowed: What it may contain besides tensors, see :func:`allow_globals`.
    """
    if not hasattr(serialization, 'add_safe_globals'):
        return load_restricted(path, map_location, allowed)
    allow_globals(allowed)
    return torch.load(path, map_location, weights_only=True)


def forbidden_globals(path: str | os.PathLike, error: Exception) -> list[str]:
    """Name what kept :func:`load_weights_only` from reading a file, if known."""
    if isinstance(error, ForbiddenGlobal):
        return [error.name]
    try:
        return serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # new in PyTorch 2.6; or the file is not a pickle at all
        return []
