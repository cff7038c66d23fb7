"""Compatibility shims for PyTorch 2.1 and newer."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

try:  # whether torch.compile or torch.export traces this call
    from torch.compiler import is_compiling as is_compiling
except ImportError:  # before PyTorch 2.3
    from torch._dynamo import is_compiling as is_compiling

# Whether torch.compile serves our functions: 2.1 compiles them anew for each shape,
# and does not understand autograd functions.
COMPILES_FUNCTIONS = torch.__version__ >= (2, 5)  # type: ignore[operator]


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


def tree_leaves(tree: Any) -> list[Any]:
    """:func:`torch.utils._pytree.tree_leaves`, which PyTorch 2.1 lacks."""
    return tree_flatten(tree)[0]
