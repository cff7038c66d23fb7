"""Choice of the implementation that computes the tail of a block.

All paths compute the same values to rounding, second derivatives included:

- 'reference': the paper's equations one by one, as plain PyTorch. It serves
  the variants of the ablations, modules with hooks, tracing and export,
  ``torch.func`` and forward-mode AD. For ONNX, :func:`.onnx_sum` replaces it.
- 'fused_sum', :func:`.fused_sum`: gate, sum and ReLU are one operation, after
  any norm. F is kept for the backward pass.
- 'fused', :func:`.bn_tail`: the operation includes the norm, which has to be
  exactly PyTorch's BatchNorm1d, 2d or 3d.

:func:`resolve_path` takes the last of these that applies and that
:func:`max_path` allows: the path of :func:`.set_path`, if there is one; otherwise
'fused', but 'fused_sum' for gradients on a GPU, where it is faster, unless
:func:`torch.compile` compiles the model.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.nn.modules.batchnorm import _BatchNorm

from ra_mm._torch import COMPILES_FUNCTIONS, cpu_mixes_dtypes, is_compiling

PATHS = ('reference', 'fused_sum', 'fused')
BATCH_NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
HALF = torch.float16, torch.bfloat16
ENV = 'RA_MM_TAIL'  # RA_MM_TAIL=reference python tools/train.py ...

# The dicts that nn.Module.__call__ consults: while all are empty, calling a
# module is calling its forward().
MODULE_HOOKS = (
    '_backward_hooks',
    '_backward_pre_hooks',
    '_forward_hooks',
    '_forward_pre_hooks',
)
GLOBAL_HOOKS = tuple(f'_global{name}' for name in MODULE_HOOKS)

_forced_path: str | None = None


def set_path(path: str | None) -> None:
    """Cap the path for the rest of the process.

    Args:
        path (str, optional): One of :data:`PATHS`. Where it does not apply, the
            next simpler one that does is used. None returns to the default.

    Raises:
        ValueError: If there is no such path.
    """
    global _forced_path
    if path is not None and path not in PATHS:
        expected = ', '.join(map(repr, PATHS))
        raise ValueError(f'path={path!r}: expected one of {expected}')
    _forced_path = path


@contextmanager
def force_path(path: str) -> Iterator[None]:
    """:func:`set_path` for the duration of a ``with`` block."""
    before = _forced_path
    set_path(path)
    try:
        yield
    finally:
        set_path(before)


def max_path(*inputs: Tensor) -> str:
    """The fastest path allowed for these inputs, whether it applies or not."""
    if _forced_path is not None:
        return _forced_path
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    if learns and inputs[0].is_cuda and not is_compiling():
        return 'fused_sum'
    return 'fused'


def resolve_path(
    z: Tensor, x: Tensor, scale: Tensor, norm: Callable | None = None
) -> str:
    """Say which path computes a tail, with its norm or after it.

    Args:
        z (Tensor): The input of the norm; without ``norm``, F(x).
        x (Tensor): The shortcut.
        scale (Tensor): gamma / temp.
        norm (callable, optional): The norm that the path has to include.

    Returns:
        str: One of :data:`ra_mm.ops.PATHS`: 'reference' means that no operation of ours
        computes it.
    """
    # Subclasses of Tensor, and proxies of torch.fx, go through the equations.
    if any(type(t) not in (Tensor, nn.Parameter) for t in (z, x)):
        return 'reference'
    path = 'fused_sum' if norm is None else 'fused'
    if (
        PATHS.index(max_path(z, x, scale)) < PATHS.index(path)
        or not _are_supported(z, x, scale)
        or (norm is None and not _can_add(z))
        or (norm is not None and not is_plain_bn(norm, z))
    ):
        return 'reference'
    return path


def _are_supported(z, x, scale):
    """Whether our autograd functions take these inputs, here and now."""
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    if z.shape != x.shape or z.dtype != x.dtype or z.numel() == 0:
        return False
    if is_compiling():
        return COMPILES_FUNCTIONS
    return not (
        torch._C._are_functorch_transforms_active()
        or any(forward_ad.unpack_dual(t).tangent is not None for t in (z, x, scale))
    )


def _can_add(F):
    """Whether PyTorch adds a product with factors in float32 to this F in place."""
    is_half_on_cpu = F.dtype in HALF and F.device.type == 'cpu'
    return not is_half_on_cpu or is_compiling() or cpu_mixes_dtypes()


def is_plain_bn(norm: Callable, z: Tensor) -> TypeGuard[_BatchNorm]:
    """Whether :func:`.bn_tail` does exactly what calling ``norm`` would."""
    return (
        type(norm) is BATCH_NORMS.get(z.ndim)
        and not has_hooks(norm)
        and z.numel() > z.shape[1]  # batch norm raises on one value a channel
    )


def has_hooks(*modules: nn.Module) -> bool:
    """Whether calling one of them does more than the ``forward`` of its class."""
    return any(getattr(nn_module, name) for name in GLOBAL_HOOKS) or any(
        'forward' in vars(m) or any(getattr(m, name) for name in MODULE_HOOKS)
        for m in modules
    )


if ENV in os.environ:
    try:
        set_path(os.environ[ENV])
    except ValueError as e:
        warnings.warn(f'{ENV} in the environment is ignored: {e}', stacklevel=2)
