"""The classes and functions that checkpoints of a run name besides tensors."""

import functools
import pickle
from collections.abc import Callable
from types import FunctionType

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler import OneCycleParamScheduler

# These keep some of their own methods as attributes.
RECORDS = (HistoryBuffer, OneCycleParamScheduler)


@functools.cache
def get_safe_globals() -> list[Callable]:
    """List mmengine's records, NumPy's arrays and scores, and OneCycleLR's state.

    None of them runs code, whatever the arguments are.
    """
    # Checkpoints name these functions as the numpy that saved them: numpy 2
    # renamed numpy.core.
    functions = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    codes = np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?'
    return [
        *(
            _rename(function, module, function.__name__)
            for function in functions
            for module in ('numpy.core.multiarray', 'numpy._core.multiarray')
        ),
        *{type(np.dtype(code)) for code in codes},
        *(np.ndarray, np.dtype, slice),
        *(ConfigDict, *RECORDS),
        _rename(_get_method, 'builtins', 'getattr'),
    ]


def _rename(function, module, name):
    """Wrap a function, under a name by which pickles call it."""
    alias = functools.partial(function)
    alias.__module__, alias.__qualname__, alias.__name__ = module, name, name
    return alias


def _get_method(owner, name):
    """Stand in for getattr, which would lead to every function there is."""
    method = vars(owner).get(name) if owner in RECORDS else None
    if name.startswith('__') or not isinstance(method, FunctionType | staticmethod):
        raise pickle.UnpicklingError(f'getattr(..., {name!r}) may run code')
    return getattr(owner, name)
