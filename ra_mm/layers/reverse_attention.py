"""Reverse attention (RA): high-level features gate the shortcut.

Z. Wang, X. Xie, J. Yang, X. Song: RA-Net: reverse attention for generalizing
residual learning. Scientific Reports 14 (2024). The symbols are the paper's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ra_mm.ops import bn_tail, onnx_sum, tail
from ra_mm.ops.dispatch import has_hooks, is_plain_bn, note_tail, path_applies

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

    def __init__(self, channels: int, **gate) -> None:
        super().__init__()
        self.gate = MGRN(channels, **gate)

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        gate = self.gate
        if torch.onnx.is_in_onnx_export() and gate.is_default and not has_hooks(gate):
            return onnx_sum(F, x, gate.gamma / gate.temp, gate.eps)
        # In the float32 of G: the gradient of G is a sum over H and W, which
        # would overflow in float16.
        y = F + gate(F)[:, :, None, None] * x  # Eq. 2
        return y.to(x.dtype)

    def tail(self, z: Tensor, norm: Callable, x: Tensor, act: Callable) -> Tensor:
        """``act(self(norm(z), x))``, by the fastest path of :mod:`ra_mm.ops`."""
        gate = self.gate
        if (
            type(self) is not ReverseAttention
            or not gate.is_default
            or has_hooks(self)
            or has_hooks(gate)
        ):
            return super().tail(z, norm, x, act)
        note_tail(self, z, norm, x, act)
        relu = type(act) is nn.ReLU and not has_hooks(act)
        scale = gate.gamma / gate.temp
        if path_applies('fused', z, x, scale) and is_plain_bn(norm, z):
            y = bn_tail(z, norm, x, scale, gate.eps, relu)
        else:
            F = norm(z)
            if not path_applies('given', F, x, scale):
                return act(self(F, x))
            y = tail(F, x, scale, gate.eps, relu)
        return y if relu else act(y)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Version 0.1 had these entries in the layer itself.
        for name in (
            'gamma',
            'temp',
            *(k for k in self.gate.state_dict() if 'bn.' in k),
        ):
            if prefix + name in state_dict:
                state_dict[f'{prefix}gate.{name}'] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)
