"""Number types, sizes and errors that the operators have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

try:
    import torchvision  # noqa: F401, registers its operators

    ops = torch.ops.torchvision
    cuda_version = ops._cuda_version()
except Exception as e:
    raise ImportError(
        f'{__file__} stands in for the compiled operators of mmcv and needs a '
        f'torchvision that fits torch {torch.__version__}: {e}'
    ) from e


def unavailable(operator: str) -> NotImplementedError:
    return NotImplementedError(
        f'mmcv was installed without its compiled operators, and the stand-in '
        f'for them ({__file__}) does not have {operator}. Install an mmcv with '
        'compiled operators: a wheel for your torch and CUDA, or compile it, '
        'with torch installed, by pip install --no-build-isolation '
        '--no-cache-dir --force-reinstall --no-deps onedl-mmcv (or mmcv, '
        'whichever you have)'
    )


def to_float(*tensors: Tensor) -> list[Tensor]:
    """Cast all tensors to float64 if the first is float64, or else to float32.

    torchvision's operators do not support bfloat16, nor all of them float16.
    """
    dtype = tensors[0].dtype
    if dtype != torch.float64:
        dtype = torch.float32
    return [tensor.to(dtype) for tensor in tensors]


@contextmanager
def allow_nondeterministic() -> Iterator[None]:
    """Make PyTorch warn instead of raise in its deterministic mode.

    The CUDA kernels add gradients up in no fixed order and raise an error in this
    mode. mmcv's do the same and never check the mode, so configs with
    ``randomness=dict(deterministic=True)`` train with them.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(min(mode, 1))  # 2 would raise, 1 warns
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
