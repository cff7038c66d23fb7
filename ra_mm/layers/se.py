"""Squeeze-and-excitation (SE), a rival of reverse attention.

J. Hu, L. Shen, G. Sun: Squeeze-and-excitation networks. CVPR 2018.

This variant has the parameter counts of RA-Net's Tables 2 and 3: reduction 16,
biases, and no rounding of the reduced width.
"""

from torch import Tensor, nn

from ra_mm.ops.cpu_reductions import per_plane, spatial_dims

from .residual_sum import ResidualSum


class SE(ResidualSum):
    """``y = SE(F(x)) + x``: channel attention on the residual branch.

    Args:
        channels (int): Channels C of F(x) and of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = bottleneck_mlp(channels)

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        z = F.mean(dim=spatial_dims(F))[:, :, None, None]  # squeeze, Eq. 2
        s = self.mlp(z).sigmoid().flatten(1)  # excitation, Eq. 3
        return per_plane(s, F) * F + x  # Eq. 4, and the sum


def bottleneck_mlp(channels: int) -> nn.Sequential:
    """Two biased 1x1 convolutions with a ReLU, reduction 16, as SE and CBAM have."""
    hidden = max(channels // 16, 1)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
    )
