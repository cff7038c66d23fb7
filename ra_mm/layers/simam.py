"""SimAM, a rival of reverse attention without parameters.

L. Yang, R.-Y. Zhang, L. Li, X. Xie: SimAM: a simple, parameter-free attention
module for convolutional neural networks. ICML 2021.

Deviations: it stands on F(x), like the other rivals, where the authors' networks
have it after the 3x3 convolution of a block; on a map of one pixel, where the
variance is 0/0, it is 0; and sums are in float32, since they overflow in float16.
"""

import torch
from torch import Tensor

from ra_mm.ops.cpu_reductions import accum_dtype, plane_size, spatial_dims
from ra_mm.validation import POSITIVE, check_arg

from .residual_sum import ResidualSum


class SimAM(ResidualSum):
    """``y = sigmoid(1 / e*) F(x) + x`` with the energy e* of each neuron.

    Args:
        channels (int): Channels C of F(x) and of x.
        lam (float): lambda, added to the variance. Defaults to 1e-4, the value
            in the paper; the authors' ImageNet models have 0.1.

    Raises:
        ValueError: If lam <= 0.
    """

    def __init__(self, channels: int, lam: float = 1e-4) -> None:
        check_arg(POSITIVE, lam=lam)
        super().__init__()
        self.lam = lam
        # By this name, the weights of a network with it do not fit one without.
        self.register_buffer('variant simam', torch.ones(()))

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        t = F.to(accum_dtype(F))
        dims = spatial_dims(t)
        d = (t - t.mean(dim=dims, keepdim=True)).square()
        n = max(plane_size(F) - 1, 1)
        variance = d.sum(dim=dims, keepdim=True) / n
        inverse_energy = d / (4 * (variance + self.lam)) + 0.5  # 1 / Eq. 5
        return inverse_energy.sigmoid().to(F.dtype) * F + x

    def extra_repr(self) -> str:
        return f'lam={self.lam}'
