"""Convolutional block attention module (CBAM), a rival of reverse attention.

S. Woo, J. Park, J.-Y. Lee, I. S. Kweon: CBAM: convolutional block attention
module. ECCV 2018. The equations are its own.
"""

import torch
from torch import Tensor, nn

from ra_mm.registry import MODELS
from ra_mm.validation import check_arg, integer


@MODELS.register_module()
class CBAM(nn.Module):
    """``y = CBAM(F(x)) + x``: channel, then spatial attention on the residual.

    The variant that has the parameters of RA-Net's Tables 2 and 3: reduction
    16 and biases as in :class:`.SE`, a perceptron for each of the two pooled
    vectors, where CBAM shares one, and no batch norm behind the 7x7
    convolution.

    Args:
        channels (int): Channels C of F(x) and of x.

    Raises:
        ValueError: If channels < 1.
    """

    def __init__(self, channels: int) -> None:
        check_arg(integer(1), channels=channels)
        super().__init__()
        self.mlp_avg = _mlp(channels)
        self.mlp_max = _mlp(channels)
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        """The residual sum; F, x and y are of shape (N, C, H, W)."""
        z = self.mlp_avg(F.mean(dim=(2, 3), keepdim=True)) + self.mlp_max(
            F.amax(dim=(2, 3), keepdim=True)
        )
        F = z.sigmoid() * F  # Eqs. 1 and 2
        z = self.conv(
            torch.cat([F.mean(dim=1, keepdim=True), F.amax(dim=1, keepdim=True)], dim=1)
        )
        F = z.sigmoid() * F  # Eqs. 1 and 3
        return F + x


def _mlp(channels):
    hidden = max(channels // 16, 1)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
    )
