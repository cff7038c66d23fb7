"""Efficient channel attention (ECA), a rival of reverse attention.

Q. Wang, B. Wu, P. Zhu, P. Li, W. Zuo, Q. Hu: ECA-Net: efficient channel attention
for deep convolutional neural networks. CVPR 2020.

The kernel size follows from the channels by Eq. 12 with gamma = 2 and b = 1.
"""

import math

from torch import Tensor, nn

from ra_mm.ops.cpu_reductions import per_plane, spatial_dims

from .residual_sum import ResidualSum


class ECA(ResidualSum):
    """``y = ECA(F(x)) + x``: a convolution over neighbouring channels.

    Args:
        channels (int): Channels C of F(x) and of x.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        t = int(abs(math.log2(channels) + 1) / 2)
        k = t if t % 2 else t + 1  # Eq. 12: the nearest odd number
        self.conv = nn.Conv1d(1, 1, kernel_size=k, padding=k // 2, bias=False)

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        z = F.mean(dim=spatial_dims(F))
        w = self.conv(z[:, None])[:, 0].sigmoid()  # Eq. 9
        return per_plane(w, F) * F + x
