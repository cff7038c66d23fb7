"""Unpickle checkpoints without running the code that they may contain.

A pickle is a program: it can call any function that Python can import, so whoever
wrote a checkpoint could run anything on the machine that loads it. Checkpoints come
from strangers (model zoos, forums, a shared disk), so they are read with an
allow-list of classes and functions that do no harm whatever their arguments are:
tensors, which :func:`torch.load` allows by itself with ``weights_only=True``, and the
plain records that a training of MMEngine saves beside them.

Importing this module adds the list to PyTorch's own, in all of this process. So the
loaders of mmengine 0.10.7 read the checkpoints of its own runs under PyTorch 2.6 and
newer, where :func:`torch.load` refuses what is not in the list.
"""

import functools
import os
import pickle
from types import FunctionType
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler import OneCycleParamScheduler
from torch import serialization

from ra_mm.engine.restricted_pickle import ForbiddenGlobal, load_restricted

# These keep some of their own methods as attributes.
RECORDS = (HistoryBuffer, OneCycleParamScheduler)


def allow_records() -> None:
    """Add the allow-list to that of ``torch.load(weights_only=True)``.

    Called again before each load, since :class:`torch.serialization.safe_globals`, by
    which a fork of mmengine loads, removes from the list what it finds there.
    """
    if hasattr(serialization, 'add_safe_globals'):  # since PyTorch 2.4
        serialization.add_safe_globals(SAFE_GLOBALS)


def load_weights_only(path: str | os.PathLike, map_location: Any) -> Any:
    """Read a file of :func:`torch.save` without running code.

    Args:
        path: The file.
        map_location: The device for its tensors.

    Raises:
        pickle.UnpicklingError: If the file names more than the allow-list has.
    """
    if not hasattr(serialization, 'add_safe_globals'):
        return load_restricted(path, map_location, SAFE_GLOBALS)
    allow_records()
    return torch.load(path, map_location, weights_only=True)


def forbidden_globals(path: str | os.PathLike, error: Exception) -> list[str]:
    """Name what kept :func:`load_weights_only` from reading a file, if known."""
    if isinstance(error, ForbiddenGlobal):
        return [*error.args]
    try:
        return serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # new in PyTorch 2.6; or the file is not a pickle at all
        return []


def _get_safe_globals() -> list[Any]:
    """List mmengine's records, NumPy's arrays and scores, and OneCycleLR's state."""
    # Checkpoints name these functions as the numpy that saved them: numpy 2
    # renamed numpy.core.
    modules = 'numpy.core.multiarray', 'numpy._core.multiarray'
    functions: list[Any] = [x.__reduce__()[0] for x in (np.zeros(1), np.float64(0))]
    codes = np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?'
    return [
        *(_rename(f, module, f.__name__) for f in functions for module in modules),
        *{type(np.dtype(code)) for code in codes},
        *(np.ndarray, np.dtype, slice, ConfigDict, *RECORDS),
        _rename(_get_method, 'builtins', 'getattr'),
    ]


def _rename(function, module, name):
    """Wrap a function, under a name by which pickles call it."""
    alias: Any = functools.partial(function)
    alias.__module__, alias.__qualname__, alias.__name__ = module, name, name
    return alias


def _get_method(owner, name):
    """Stand in for getattr, which would lead to every function there is."""
    method = vars(owner).get(name) if owner in RECORDS else None
    if name.startswith('__') or not isinstance(method, FunctionType | staticmethod):
        raise pickle.UnpicklingError(f'getattr(..., {name!r}) may run code')
    return getattr(owner, name)


SAFE_GLOBALS = _get_safe_globals()
allow_records()
