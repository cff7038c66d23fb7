"""Control variants of reverse attention, each without one of its ideas.

StaticGate and GatedResidual have the parameters, the zero initialization and the
annealed temperature of :class:`.ReverseAttention`, so that nothing else differs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ra_mm.ops.cpu_reductions import per_plane

from .reverse_attention import ReverseAttention
from .se import SE


class StaticGate(ReverseAttention):
    """``y = F(x) + (1 + gamma / temp) x``: a gate that does not look at F.

    It tests whether M-GRN matters, or a learned weight for each channel of the
    shortcut is enough, as in A. Bulat et al., Toward fast and accurate human pose
    estimation via soft-gated skip connections. FG 2020. There the weight itself
    is learned; here its difference from 1.

    Args:
        channels (int): Channels C of F(x) and of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, aggregation='ones', normalization='none')


class GatedResidual(ReverseAttention):
    """``y = G(F(x)) F(x) + x``: the gate is on the residual branch.

    It tests whether the gate has to be on the shortcut, or M-GRN helps on either
    operand of the sum.

    Args:
        channels (int): Channels C of F(x) and of x.
        **gate: Arguments of :class:`.MGRN`.
    """

    def __init__(self, channels: int, **gate: Any) -> None:
        super().__init__(channels, **gate)
        # Weights of reverse attention, of the same shapes, do not fit.
        self.register_buffer('gates_residual', torch.ones(()))

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        y = per_plane(self.gate(F), F) * F + x
        return y.to(x.dtype)


class ZeroScaledSE(SE):
    """``y = F(x) + x + scale * SE(F(x))``: an attention that is added from zero.

    With scale = 0, its initial value, it is the plain residual sum, as is reverse
    attention. It tests whether that start is all that helps pre-trained weights.

    Args:
        channels (int): Channels C of F(x) and of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        y = F + x + self.scale * super().forward(F, torch.zeros_like(x))
        return y.to(x.dtype)
