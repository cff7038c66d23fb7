"""Which implementation computes the tail of a block, and how to force one.

All paths compute the same values to rounding, second derivatives included:

- 'reference': the paper's equations one by one, as plain PyTorch. It serves
  the variants of the ablations, modules with hooks, tracing and export,
  ``torch.func`` and forward-mode AD. For ONNX, :func:`.onnx_sum` replaces it.
- 'given', :func:`.tail`: after any norm; F is kept for the backward pass.
- 'fused', :func:`.bn_tail`: the norm is exactly a BatchNorm2d, and part of it.
- 'compiled': 'fused' and 'given' through :func:`torch.compile`, in a model that
  is not compiled as a whole.

:meth:`ra_mm.layers.ReverseAttention.tail` takes the last of these that applies
and that :func:`max_path` allows: the path of :func:`set_path`, if there is one;
where gradients are needed that of :func:`set_training_path`; otherwise 'fused',
but 'given' for gradients on a GPU without compilation, where it is faster.
"""

import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

from ra_mm._torch import COMPILES_FUNCTIONS, cpu_mixes_dtypes, is_compiling

fx_config: Any = None
with suppress(ImportError):
    from torch.fx.experimental import _config as fx_config

PATHS = ('reference', 'given', 'fused', 'compiled')
HALF = torch.float16, torch.bfloat16
ENV = 'RA_MM_TAIL'  # RA_MM_TAIL=compiled python tools/train.py ...

# The dicts that nn.Module.__call__ consults: while all are empty, calling a
# module is calling its forward().
MODULE_HOOKS = (
    '_backward_hooks',
    '_backward_pre_hooks',
    '_forward_hooks',
    '_forward_pre_hooks',
)
GLOBAL_HOOKS = (
    '_global_backward_hooks',
    '_global_backward_pre_hooks',
    '_global_forward_hooks',
    '_global_forward_pre_hooks',
)


_forced_path: str | None = None
_training_path: str | None = None


def set_path(path: str | None) -> None:
    """Use at most this path from now on, in this process.

    Args:
        path (str, optional): One of :data:`PATHS`. Where it does not apply, the
            next simpler one that does is used. None returns to the default.

    Raises:
        ValueError: If there is no such path.
    """
    global _forced_path
    _check(path)
    _forced_path = path


def set_training_path(path: str | None) -> None:
    """Like :func:`set_path`, where gradients are needed and no path is forced.

    Models that are compiled as a whole keep 'fused'.
    """
    global _training_path
    _check(path)
    _training_path = path


def _check(path):
    if path is not None and path not in PATHS:
        expected = ', '.join(map(repr, PATHS))
        raise ValueError(f'path={path!r}: expected one of {expected}')


@contextmanager
def force_path(path: str) -> Iterator[None]:
    """:func:`set_path` for the duration of a ``with`` block."""
    before = _forced_path
    set_path(path)
    try:
        yield
    finally:
        set_path(before)


def get_path() -> str | None:
    """The path of :func:`set_path`, or None."""
    return _forced_path


def max_path(*inputs: Tensor) -> str:
    """The path that is used at most for these inputs of a tail."""
    if _forced_path is not None:
        return _forced_path
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if is_compiling() or not learns:
        return 'fused'
    return _training_path or ('given' if inputs[0].is_cuda else 'fused')


def path_applies(path: str, F: Tensor, x: Tensor, scale: Tensor) -> bool:
    """Whether 'fused' or 'given' is allowed and supports these inputs.

    Args:
        path (str): 'fused' or 'given'.
        F (Tensor): F(x), or for 'fused' the input of its batch norm.
        x (Tensor): The shortcut.
        scale (Tensor): gamma / temp.
    """
    if any(type(t) not in (Tensor, nn.Parameter) for t in (F, x)):
        return False  # subclasses, proxies of torch.fx
    if PATHS.index(path) > PATHS.index(max_path(F, x, scale)):
        return False
    if F.shape != x.shape or F.dtype != x.dtype or F.numel() == 0:
        return False
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    if is_compiling():
        return COMPILES_FUNCTIONS
    if path == 'given' and F.dtype in HALF and F.device.type == 'cpu':
        if not cpu_mixes_dtypes():
            return False
    return not (
        torch._C._are_functorch_transforms_active()
        or any(forward_ad.unpack_dual(t).tangent is not None for t in (F, x, scale))
    )


def is_plain_bn(norm: Callable, z: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether :func:`.bn_tail` does exactly what calling ``norm`` would."""
    return (
        type(norm) is nn.BatchNorm2d
        and not has_hooks(norm)
        and z.numel() > z.shape[1]  # BatchNorm2d raises on one value a channel
    )


def has_hooks(m: nn.Module) -> bool:
    """Whether calling m does more than the ``forward`` of its class."""
    return (
        any(getattr(m, name) for name in MODULE_HOOKS)
        or any(getattr(nn_module, name) for name in GLOBAL_HOOKS)
        or 'forward' in vars(m)
    )


_observer: Callable | None = None


@contextmanager
def observe_tails(observer: Callable) -> Iterator[None]:
    """Call ``observer(layer, z, norm, x, act)`` before each tail.

    Layers that always take the reference path are left out, and so are models
    that are compiled as a whole.
    """
    global _observer
    _observer = observer
    try:
        yield
    finally:
        _observer = None


def note_tail(*args) -> None:
    """Tell the observer, if there is one."""
    if _observer is not None and not is_compiling():
        _observer(*args)


class CompilationFailed(UserWarning):
    """The tails cannot be compiled here and run eagerly."""


_compilation_failed = False


def retry_compilation() -> bool:
    """Try to compile again from now on, after a failure too.

    Returns:
        bool: Whether compilation had failed, and tails ran eagerly since.
    """
    global _compilation_failed
    failed, _compilation_failed = _compilation_failed, False
    return failed


def maybe_compiled(function: Callable, compiled: bool) -> Callable:
    """The function, or its one compiled version for all layers and shapes."""
    if not compiled or not COMPILES_FUNCTIONS:
        return function
    if _compilation_failed or is_compiling():
        return function
    return functools.partial(_run_compiled, function)


def _run_compiled(function, *args):
    global _compilation_failed
    # Sizes of parameters would be constants.
    args = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
    try:
        with _shapes_independent():
            return _compile(function)(*args)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as e:  # of any of the compilers
        _compilation_failed = True
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


def _shapes_independent():
    """One graph serves all shapes, also if some sizes were equal at first."""
    return _duck_shape_off(threading.get_ident())


@functools.cache  # since making it takes longer than entering it
def _duck_shape_off(thread):
    if fx_config is None or not hasattr(fx_config, 'use_duck_shape'):
        return nullcontext()
    return fx_config.patch(use_duck_shape=False)


if ENV in os.environ:
    try:
        set_path(os.environ[ENV])
    except ValueError as e:
        warnings.warn(f'{ENV} in the environment is ignored: {e}', stacklevel=2)
