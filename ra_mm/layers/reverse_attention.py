"""Reverse attention (RA) by Modified Global Response Normalization (M-GRN).

Z. Wang, X. Xie, J. Yang, X. Song: RA-Net: reverse attention for generalizing
residual learning. Scientific Reports 14 (2024). The symbols are the paper's.

Where the paper is silent: eps is 1e-6, as in GRN (ConvNeXt V2), and all of G
is computed in float32 at least, since a sum of squares over a feature map
overflows in float16.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from ra_mm.ops.residual_tail import (
    bn_tail,
    can_take,
    is_plain_bn,
    is_watched,
    tail,
    wide,
)
from ra_mm.registry import MODELS
from ra_mm.validation import POSITIVE, check_arg, integer, one_of

# Table 6: P of Eq. 3, from (N, C, H, W) to (N, C) in the given dtype
AGGREGATIONS = {
    'l2': lambda F, dtype: vector_norm(F, 2, dim=(2, 3), dtype=dtype),
    'l1': lambda F, dtype: vector_norm(F, 1, dim=(2, 3), dtype=dtype),
    'gap': lambda F, dtype: F.mean(dim=(2, 3), dtype=dtype),
    'gmp': lambda F, dtype: F.amax(dim=(2, 3)).to(dtype),
    'abs_gap': lambda F, dtype: F.mean(dim=(2, 3), dtype=dtype).abs(),
    'abs_gmp': lambda F, dtype: F.amax(dim=(2, 3)).to(dtype).abs(),
}


def aggregate(F: Tensor, by: str) -> Tensor:
    """P of Eq. 3, (N, C), in float32 at least."""
    return AGGREGATIONS[by](F, wide(F))


# Opaque to torch.fx: in older versions what it traces has no dtype.
torch.fx.wrap('aggregate')

# Table 7
NORMALIZATIONS = ('m-grn', 'none', 'bn', 'ln')
# Table 8: G from gamma * N / temp, all (N, C)
ACTIVATIONS = {
    '1+': lambda z: z + 1,
    'sigmoid': torch.sigmoid,
    'softmax': lambda z: z.softmax(dim=1),
}


@MODELS.register_module()
class ReverseAttention(nn.Module):
    """``y = F(x) + G(F(x)) * x``: high-level features gate the shortcut.

    With gamma = 0, as it starts, and wherever F(x) = 0, G is exactly 1 and
    this is the plain residual sum.

    ``temp`` is a buffer of no dimension, saved with the weights, so that a
    checkpoint computes what the model computed when it was saved; weights
    without it mean temp = 1. :class:`~ra_mm.hooks.TempAnnealingHook` changes
    it in place while training.

    The paper's ablations replace one step of G each. G(0) = 1, its first
    condition, then means: channels with F_i = 0 have G_i = 1, whatever gamma
    and the other channels are.

    ============= ========= ========================================== ========
    argument      value     step                                       G(0) = 1
    ============= ========= ========================================== ========
    aggregation   'l2'      P_i = L2 norm of F_i                       yes
    aggregation   'l1'      P_i = L1 norm of F_i                       yes
    aggregation   'gap'     P_i = mean of F_i; unstable                yes
    aggregation   'gmp'     P_i = maximum of F_i; unstable             yes
    aggregation   'abs_gap' P_i = abs(mean of F_i), Table 6's GAP†     yes
    aggregation   'abs_gmp' P_i = abs(maximum of F_i), Table 6's GMP†  yes
    normalization 'm-grn'   N_i by Eq. 5                               yes
    normalization 'none'    N_i = P_i                                  yes
    normalization 'bn'      N_i by Eq. 4 over the images of a batch    no
    normalization 'ln'      N_i by Eq. 4 over the channels of an image no
    activation    '1+'      G_i = gamma_i N_i / temp + 1               yes
    activation    'sigmoid' G_i = sigmoid(gamma_i N_i / temp)          no
    activation    'softmax' G = softmax(gamma N / temp) over channels  no
    ============= ========= ========================================== ========

    The paper found training with 'gap' and 'gmp' unstable: they have signs,
    so the mean that Eq. 5 divides by can come arbitrarily close to 0. With
    gamma = 0, '1+' is the plain residual sum under every normalization;
    'sigmoid' starts at G = 1/2, 'softmax' at G = 1/C.

    'bn' is :class:`torch.nn.BatchNorm1d` on P without weight and bias: it
    normalizes with running statistics when not training, obeys ``norm_eval``,
    can become SyncBN, and has eps under the root.

    Args:
        channels (int): Channels C of F(x) and of x.
        aggregation (str): P, a row of Table 6. Defaults to 'l2'.
        normalization (str): N, a row of Table 7. Defaults to 'm-grn'.
        activation (str): A row of Table 8. Defaults to '1+'.
        eps (float): Added to the denominator in Eqs. 4 and 5. Defaults to
            1e-6.

    Raises:
        ValueError: If a step has no such value, channels < 1 or eps <= 0. In
            a forward pass, if 'bn' trains on a batch of one image.
    """

    def __init__(
        self,
        channels: int,
        aggregation: str = 'l2',
        normalization: str = 'm-grn',
        activation: str = '1+',
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check_arg(integer(1), channels=channels)
        check_arg(one_of(*AGGREGATIONS), aggregation=aggregation)
        check_arg(one_of(*NORMALIZATIONS), normalization=normalization)
        check_arg(one_of(*ACTIVATIONS), activation=activation)
        check_arg(POSITIVE, eps=eps)
        self.aggregation = aggregation
        self.normalization = normalization
        self.activation = activation
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.register_buffer('temp', torch.ones(()))
        if normalization == 'bn':
            self.bn = nn.BatchNorm1d(channels, eps, affine=False)

    def gate(self, F: Tensor) -> Tensor:
        """G(F), Eqs. 3, 5 and 8; training, 'bn' updates its statistics.

        Args:
            F (Tensor): F(x) of shape (N, C, H, W), of any floating dtype.

        Returns:
            Tensor: G of shape (N, C), float32 (float64 for a float64 F).
        """
        P = aggregate(F, self.aggregation)  # Eq. 3
        N = self._normalize(P)  # Eq. 5
        z = self.gamma * N / self.temp
        return ACTIVATIONS[self.activation](z)  # Eq. 8

    def _normalize(self, P: Tensor) -> Tensor:
        if self.normalization == 'none':
            return P
        if self.normalization == 'bn':
            if (
                len(P) == 1 and self.bn.training and isinstance(self.bn, nn.BatchNorm1d)
            ):  # SyncBN sees other processes
                raise ValueError(
                    "normalization='bn' takes its statistics over the images "
                    'of a batch and cannot train on a batch of 1: train with '
                    'larger batches (drop_last=True if only the last is so '
                    'small), with SyncBN or with norm_eval=True'
                )
            return self.bn(P)
        mean = P.mean(dim=1, keepdim=True)
        if self.normalization == 'ln':
            std = P.std(dim=1, correction=0, keepdim=True)
            return (P - mean) / (std + self.eps)  # Eq. 4
        return P / (mean + self.eps)  # Eq. 5

    def forward(self, F: Tensor, x: Tensor) -> Tensor:
        """The residual sum, Eq. 2.

        Args:
            F (Tensor): F(x) of shape (N, C, H, W).
            x (Tensor): The shortcut, of the same shape and dtype.

        Returns:
            Tensor: y of the same shape and dtype.
        """
        # In G's float32, in which the gradient of G is summed then, too: in
        # float16 that sum over a plane overflows.
        y = F + self.gate(F)[:, :, None, None] * x  # Eq. 2
        return y.to(x.dtype)

    def residual(self, z: Tensor, norm: Callable, x: Tensor, act: Callable) -> Tensor:
        """``act(self(norm(z), x))``, by a path of :mod:`.fused_tail`.

        Args:
            z (Tensor): The last convolution's output, of shape (N, C, H, W).
            norm (callable): What makes F(x) of it, as the norm of the block.
            x (Tensor): The shortcut, of the same shape and dtype.
            act (callable): What follows the sum, as the block's ReLU.

        Returns:
            Tensor: The block's output of the same shape and dtype.
        """
        steps = self.aggregation, self.normalization, self.activation
        if (
            type(self) is not ReverseAttention
            or is_watched(self)
            or steps != ('l2', 'm-grn', '1+')
        ):
            return act(self(norm(z), x))
        relu = type(act) is nn.ReLU and not is_watched(act)
        if can_take('fused', z, x) and is_plain_bn(norm, z):
            y = bn_tail(z, norm, x, self.gamma / self.temp, self.eps, relu)
        else:
            F = norm(z)
            if not can_take('given', F, x):
                return act(self(F, x))
            y = tail(F, x, self.gamma / self.temp, self.eps, relu)
        return y if relu else act(y)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.setdefault(prefix + 'temp', torch.ones_like(self.temp))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f'{self.gamma.numel()}, aggregation={self.aggregation!r}, '
            f'normalization={self.normalization!r}, '
            f'activation={self.activation!r}, eps={self.eps}'
        )
