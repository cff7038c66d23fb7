"""Global response normalization (GRN) on F(x), a rival of reverse attention.

S. Woo, S. Debnath, R. Hu, X. Chen, Z. Liu, I. S. Kweon, S. Xie: ConvNeXt V2:
co-designing and scaling ConvNets with masked autoencoders. CVPR 2023.

ConvNeXt V2 has it within the residual branch, here it ends the branch. eps is
1e-6 as there. G is computed in float32, since it overflows in float16.
"""

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from ra_mm.ops.cpu_reductions import accum_dtype, per_plane, spatial_dims

from .residual_sum import ResidualSum


class GRN(ResidualSum):
    """``y = GRN(F(x)) + x`` with ``GRN(F) = gamma * F * N(F) + beta + F``.

    N is the norm of each channel divided by the mean norm of all channels. With
    gamma = beta = 0, the initial values, this is the plain residual sum.

    Args:
        channels (int): Channels C of F(x) and of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        G = vector_norm(F, 2, dim=spatial_dims(F), keepdim=True, dtype=accum_dtype(F))
        N = (G / (G.mean(dim=1, keepdim=True) + 1e-6)).to(F.dtype)
        gamma, beta = per_plane(self.gamma, F), per_plane(self.beta, F)
        y = gamma * (F * N) + beta + F
        return (y + x).to(x.dtype)
