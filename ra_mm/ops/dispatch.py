"""Which implementation computes the tail of a block, and how to force one.

All paths compute the same values to rounding, second derivatives included.
:meth:`ra_mm.layers.ReverseAttention.tail` takes the first that applies:

1. 'compiled', only if asked for: the two below through :func:`torch.compile`,
   for a model that is not compiled as a whole.
2. 'fused', :func:`.bn_tail`: the norm is exactly a BatchNorm2d.
3. 'given', :func:`.tail`: any other norm; F is kept for the backward pass.
4. 'reference': the paper's equations one by one, as plain PyTorch. It serves
   the variants of the ablations, modules with hooks, tracing and export,
   ``torch.func`` and forward-mode AD.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

try:  # whether torch.compile or torch.export traces this call
    from torch.compiler import is_compiling
except ImportError:  # before PyTorch 2.3
    from torch._dynamo import is_compiling

PATHS = ('reference', 'given', 'fused', 'compiled')
DEFAULT = 'fused'
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


_max_path = DEFAULT


def set_path(path: str) -> None:
    """Use at most this path from now on, in this process.

    Args:
        path (str): One of :data:`PATHS`. Where it does not apply, the next
            simpler one that does is used.

    Raises:
        ValueError: If there is no such path.
    """
    global _max_path
    if path not in PATHS:
        expected = ', '.join(map(repr, PATHS))
        raise ValueError(f'path={path!r}: expected one of {expected}')
    _max_path = path


@contextmanager
def force_path(path: str) -> Iterator[None]:
    """:func:`set_path` for the duration of a ``with`` block."""
    before = _max_path
    set_path(path)
    try:
        yield
    finally:
        set_path(before)


def get_path() -> str:
    """The path that is used at most."""
    return _max_path


def path_applies(path: str, F: Tensor, x: Tensor, scale: Tensor) -> bool:
    """Whether 'fused' or 'given' is allowed and supports these inputs.

    Args:
        path (str): 'fused' or 'given'.
        F (Tensor): F(x), or for 'fused' the input of its batch norm.
        x (Tensor): The shortcut.
        scale (Tensor): gamma / temp.
    """
    if PATHS.index(path) > PATHS.index(_max_path):
        return False
    if any(type(t) not in (Tensor, nn.Parameter) for t in (F, x)):
        return False  # subclasses, proxies of torch.fx
    if F.shape != x.shape or F.dtype != x.dtype or F.numel() == 0:
        return False
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    return is_compiling() or not (
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


def maybe_compiled(function: Callable, compiled: bool) -> Callable:
    """The function, or its one compiled version for all layers."""
    return _compile(function) if compiled else function


@functools.cache
def _compile(function):
    return torch.compile(function)


if ENV in os.environ:
    try:
        set_path(os.environ[ENV])
    except ValueError as e:
        warnings.warn(f'{ENV} in the environment is ignored: {e}', stacklevel=2)
