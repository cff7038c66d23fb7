"""Convolutional block attention module (CBAM), a rival of reverse attention.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon: CBAM: convolutional block attention
module. ECCV 2018.

This variant has the parameter counts of RA-Net's Tables 2 and 3: reduction 16
and biases as in :class:`.SE`, one MLP for each of the two pooled vectors (the
original shares one), and no batch norm after the 7x7 convolution.
"""

import torch
from torch import Tensor, nn

from .residual_sum import ResidualSum
from .se import bottleneck_mlp


class CBAM(ResidualSum):
    """``y = CBAM(F(x)) + x``: channel, then spatial attention.

    Args:
        channels (int): Channels C of F(x) and of x, of shape (N, C, H, W).

    Raises:
        ValueError: In a forward pass, if F(x) has not two spatial dimensions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp_avg = bottleneck_mlp(channels)
        self.mlp_max = bottleneck_mlp(channels)
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        if type(F) is Tensor and F.ndim != 4:
            raise ValueError(
                f'CBAM: F(x) of shape {tuple(F.shape)}: expected (N, C, H, W), for its '
                '7x7 convolution'
            )
        M_c = self.mlp_avg(F.mean(dim=(2, 3), keepdim=True)) + self.mlp_max(
            F.amax(dim=(2, 3), keepdim=True)
        )
        F = M_c.sigmoid() * F  # CBAM's Eqs. 1 and 2
        pooled = [F.mean(dim=1, keepdim=True), F.amax(dim=1, keepdim=True)]
        M_s = self.conv(torch.cat(pooled, dim=1))
        F = M_s.sigmoid() * F  # CBAM's Eqs. 1 and 3
        return F + x
