"""Control variants of reverse attention, each without one of its ideas.

Both have the parameters, the zero initialization and the annealed temperature
of :class:`.ReverseAttention`, so that nothing else differs.
"""

from torch import Tensor

from ra_mm.ops.cpu_reductions import per_plane

from .reverse_attention import ReverseAttention


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

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        y = per_plane(self.gate(F), F) * F + x
        return y.to(x.dtype)
