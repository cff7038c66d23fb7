"""Reverse attention (RA) by Modified Global Response Normalization (M-GRN).

Z. Wang, X. Xie, J. Yang, X. Song: RA-Net: reverse attention for generalizing
residual learning. Scientific Reports 14 (2024). The symbols are the paper's.

Where the paper is silent: eps is 1e-6, as in GRN (ConvNeXt V2), and norm and
gate are computed in float32 at least, since a sum of squares over a feature
map overflows in float16.
"""
import torch
from torch import Tensor, nn

from ra_mm.registry import MODELS


@MODELS.register_module()
class ReverseAttention(nn.Module):
    """``y = F(x) + G(F(x)) * x``: high-level features gate the shortcut.

    With gamma = 0, as it starts, and wherever F(x) = 0, G is exactly 1 and
    this is the plain residual sum.

    ``temp`` is a buffer of no dimension, saved with the weights, so that a
    checkpoint computes what the model computed when it was saved; weights
    without it mean temp = 1. :class:`~ra_mm.hooks.TempAnnealingHook` changes
    it in place while training.

    Args:
        channels (int): Channels C of F(x) and of x.
        eps (float): Added to the mean norm in Eq. 5. Defaults to 1e-6.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.register_buffer('temp', torch.ones(()))

    def gate(self, F: Tensor) -> Tensor:
        """G(F), Eqs. 3, 5 and 8.

        Args:
            F (Tensor): F(x) of shape (N, C, H, W), of any floating dtype.

        Returns:
            Tensor: G of shape (N, C), float32 (float64 for a float64 F).
        """
        dtype = torch.promote_types(F.dtype, torch.float32)
        P = torch.linalg.vector_norm(F, dim=(2, 3), dtype=dtype)  # Eq. 3
        N = P / (P.mean(dim=1, keepdim=True) + self.eps)  # Eq. 5
        return self.gamma * N / self.temp + 1  # Eq. 8

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        """The residual sum, Eq. 2.

        Args:
            F (Tensor): F(x) of shape (N, C, H, W).
            x (Tensor): The shortcut, of the same shape and dtype.

        Returns:
            Tensor: y of the same shape and dtype.
        """
        G = self.gate(F).to(x.dtype)  # or autocast's stream became float32
        return F + G[:, :, None, None] * x  # Eq. 2

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.setdefault(prefix + 'temp', torch.ones_like(self.temp))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f'{self.gamma.numel()}, eps={self.eps}'
