"""Reverse attention (RA): high-level features gate the shortcut.

Z. Wang, X. Xie, J. Yang, X. Song: RA-Net: reverse attention for generalizing
residual learning. Scientific Reports 14 (2024). The symbols are the paper's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ra_mm.ops import bn_tail, fused_sum, onnx_sum
from ra_mm.ops.cpu_reductions import per_plane
from ra_mm.ops.paths import has_hooks, resolve_path

from .m_grn import MGRN
from .residual_sum import ResidualSum


class ReverseAttention(ResidualSum):
    """``y = F(x) + G(F(x)) * x`` with the gate G of :class:`.MGRN`.

    With gamma = 0, its initial value, this is exactly the plain residual sum.

    Args:
        channels (int): Channels C of F(x) and of x.
        **gate: Arguments of :class:`.MGRN`, for the paper's ablations.

    Attributes:
        gate (MGRN): Computes G (N, C) from F; its forward hooks see both.

    Raises:
        ValueError: If an argument is out of range, see :class:`.MGRN`.
    """

    def __init__(self, channels: int, **gate: Any) -> None:
        super().__init__()
        self.gate = MGRN(channels, **gate)

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        gate = self.gate
        if torch.onnx.is_in_onnx_export() and gate.is_default and not has_hooks(gate):
            return onnx_sum(F, x, gate.gamma / gate.temp, gate.eps)
        # In the float32 of G: the gradient of G is a sum over a plane, which
        # would overflow in float16.
        y = F + per_plane(gate(F), x) * x  # Eq. 2
        return y.to(x.dtype)

    @property
    def has_fused_tail(self) -> bool:
        """Whether :mod:`ra_mm.ops` computes what calling this layer computes."""
        return (
            type(self).forward is ReverseAttention.forward
            and self.gate.is_default
            and not has_hooks(self, self.gate)
        )

    def tail(self, z: Tensor, norm: Any, x: Tensor, act: Callable) -> Tensor:
        """``act(self(norm(z), x))``, on the path of :func:`.resolve_path`."""
        if not self.has_fused_tail:
            return super().tail(z, norm, x, act)
        gate = self.gate
        scale = gate.gamma / gate.temp
        relu = type(act) is nn.ReLU and not has_hooks(act)
        if resolve_path(z, x, scale, norm) != 'reference':
            y = bn_tail(z, norm, x, scale, gate.eps, relu)
        else:
            F = norm(z)
            if resolve_path(F, x, scale) == 'reference':
                return act(self(F, x))
            y = fused_sum(F, x, scale, gate.eps, relu)
        return y if relu else act(y)
