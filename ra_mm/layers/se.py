"""Squeeze-and-excitation (SE), a rival of reverse attention.

J. Hu, L. Shen, G. Sun: Squeeze-and-excitation networks. CVPR 2018.
"""

from mmpretrain.models.utils import SELayer
from torch import Tensor

from ra_mm.registry import MODELS
from ra_mm.validation import check_arg, integer


@MODELS.register_module()
class SE(SELayer):
    """``y = SE(F(x)) + x``: channel attention on the residual.

    Reduction 16, biases, and no rounding of the reduced width: the variant
    that has the parameters of RA-Net's Tables 2 and 3.

    Args:
        channels (int): Channels C of F(x) and of x.

    Raises:
        ValueError: If channels < 1.
    """

    def __init__(self, channels: int) -> None:
        check_arg(integer(1), channels=channels)
        super().__init__(channels, squeeze_channels=max(channels // 16, 1))

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        """The residual sum; F, x and y are of shape (N, C, H, W)."""
        return super().forward(F) + x
