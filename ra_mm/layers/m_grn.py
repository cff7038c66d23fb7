"""Modified Global Response Normalization (M-GRN), the gate of RA-Net.

Z. Wang, X. Xie, J. Yang, X. Song: RA-Net: reverse attention for generalizing
residual learning. Scientific Reports 14 (2024). The symbols are the paper's.

Where the paper is silent: eps is 1e-6, as in GRN (ConvNeXt V2), and G is
computed in float32 (float64 for a float64 F), since a sum of squares over a
feature map overflows in float16.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from ra_mm.ops.cpu_reductions import accum_dtype, spatial_dims
from ra_mm.validation import POSITIVE, check_arg, integer, one_of

from .temp_schedule import watch

# Table 6: P of Eq. 3, from (N, C, *) to (N, C) in the given dtype, over dimensions d
AGGREGATIONS = {
    'l2': lambda F, d, dtype: vector_norm(F, 2, dim=d, dtype=dtype),
    'l1': lambda F, d, dtype: vector_norm(F, 1, dim=d, dtype=dtype),
    'gap': lambda F, d, dtype: F.mean(dim=d, dtype=dtype),
    'gmp': lambda F, d, dtype: F.amax(dim=d).to(dtype),
    'abs_gap': lambda F, d, dtype: F.mean(dim=d, dtype=dtype).abs(),
    'abs_gmp': lambda F, d, dtype: F.amax(dim=d).to(dtype).abs(),
    'ones': lambda F, d, dtype: F.new_ones(F.shape[:2], dtype=dtype),  # not the paper's
}


def aggregate(F: Tensor, aggregation: str) -> Tensor:
    """P of Eq. 3: (N, C), in float32 or float64."""
    return AGGREGATIONS[aggregation](F, spatial_dims(F), accum_dtype(F))


# Opaque to torch.fx: in older versions a traced tensor has no dtype.
torch.fx.wrap('aggregate')


# Table 7: N from P, both (N, C). MGRN itself handles 'bn', which has statistics.
NORMALIZATIONS = {
    'm-grn': lambda P, eps: P / (P.mean(dim=1, keepdim=True) + eps),  # Eq. 5
    'none': lambda P, eps: P,
    'ln': lambda P, eps: (  # Eq. 4 over the channels of an image
        (P - P.mean(dim=1, keepdim=True))
        / (P.std(dim=1, correction=0, keepdim=True) + eps)
    ),
}

# Table 8: G from gamma * N / temp, all (N, C)
ACTIVATIONS = {
    '1+': lambda z: z + 1,
    'sigmoid': torch.sigmoid,
    'softmax': lambda z: z.softmax(dim=1),
}


class MGRN(nn.Module):
    """``G = 1 + gamma / temp * N(||F||_2)``: how much of the shortcut passes.

    With gamma = 0, its initial value, and wherever F(x) = 0, G is exactly 1.

    ``temp`` is a 0-dim buffer, saved with the weights, so that a checkpoint
    computes what the model computed when it was saved; weights without it
    mean temp = 1. :class:`ra_mm.hooks.TempAnnealingHook` changes it in place
    during training. Variants have a further buffer, by whose name their weights
    do not fit another variant.

    Norms and means are over all spatial dimensions: (H, W) in the paper, L or
    (D, H, W) in networks for signals and volumes.

    Each of the paper's ablations replaces one step of G. The last column says
    whether G still meets the paper's first condition, G(0) = 1: channels with
    F_i = 0 have G_i = 1, whatever gamma and the other channels are.

    ============= ========= ========================================== ========
    argument      value     step                                       G(0) = 1
    ============= ========= ========================================== ========
    aggregation   'l2'      P_i = L2 norm of F_i                       yes
    aggregation   'l1'      P_i = L1 norm of F_i                       yes
    aggregation   'gap'     P_i = mean of F_i; unstable                yes
    aggregation   'gmp'     P_i = maximum of F_i; unstable             yes
    aggregation   'abs_gap' P_i = abs(mean of F_i), Table 6's GAP†     yes
    aggregation   'abs_gmp' P_i = abs(maximum of F_i), Table 6's GMP†  yes
    aggregation   'ones'    P_i = 1: G does not look at F, a control   no
    normalization 'm-grn'   N_i by Eq. 5                               yes
    normalization 'none'    N_i = P_i                                  yes
    normalization 'bn'      N_i by Eq. 4 over the images of a batch    no
    normalization 'ln'      N_i by Eq. 4 over the channels of an image no
    activation    '1+'      G_i = gamma_i N_i / temp + 1               yes
    activation    'sigmoid' G_i = sigmoid(gamma_i N_i / temp)          no
    activation    'softmax' G = softmax(gamma N / temp) over channels  no
    ============= ========= ========================================== ========

    The paper found training with 'gap' and 'gmp' unstable: they are signed,
    so the mean that Eq. 5 divides by can come arbitrarily close to 0. 'ones',
    which the paper does not have, makes N_i 1 / (1 + eps) by 'm-grn' and 1 by
    'none': see :class:`.StaticGate`. With
    gamma = 0, '1+' is the plain residual sum under every normalization;
    'sigmoid' starts at G = 1/2, 'softmax' at G = 1/C.

    'bn' is a :class:`torch.nn.BatchNorm1d` without weight and bias: it uses
    running statistics in evaluation, obeys ``norm_eval``, can become SyncBN,
    and has eps under the root. In training it needs batches of two images.

    Args:
        channels (int): Channels C of F(x).
        aggregation (str): P, a row of Table 6, or 'ones'. Defaults to 'l2'.
        normalization (str): N, a row of Table 7. Defaults to 'm-grn'.
        activation (str): A row of Table 8. Defaults to '1+'.
        eps (float): Added to the denominator in Eqs. 4 and 5. Defaults to
            1e-6.

    Raises:
        ValueError: If a step has no such value, channels < 1 or eps <= 0.
    """

    temp: Tensor

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
        check_arg(one_of(*NORMALIZATIONS, 'bn'), normalization=normalization)
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
        if not self.is_default:  # whose weights have the same shapes, but do not fit
            self.register_buffer('variant ' + ' '.join(self._steps), torch.ones(()))
        watch(self)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        watch(self)  # copies and pickles, too

    @property
    def _steps(self):
        return self.aggregation, self.normalization, self.activation

    @property
    def is_default(self) -> bool:
        """Whether this is the M-GRN of RA-Net and not a variant from an ablation."""
        return type(self) is MGRN and self._steps == ('l2', 'm-grn', '1+')

    def forward(self, F: Tensor) -> Tensor:
        """G(F), Eqs. 3, 5 and 8.

        Args:
            F (Tensor): F(x) of shape (N, C, H, W), or of one or three spatial
                dimensions, and of any floating dtype.

        Returns:
            Tensor: G of shape (N, C), float32 (float64 for a float64 F).
        """
        P = aggregate(F, self.aggregation)  # Eq. 3
        if self.normalization == 'bn':
            N = self.bn(P)  # Eq. 4 over the images of a batch
        else:
            N = NORMALIZATIONS[self.normalization](P, self.eps)  # Eq. 5
        return ACTIVATIONS[self.activation](self.gamma * N / self.temp)  # Eq. 8

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Plain weights leave temp to its schedule.
        gamma = state_dict.get(prefix + 'gamma')
        temp = self.temp if gamma is None else torch.ones_like(self.temp)
        if prefix + 'temp' not in state_dict and gamma is not None and gamma.any():
            warnings.warn(
                'reverse attention is loaded without its buffer temp: if it was saved '
                'within its annealing, temp = 1 is wrong. Save the state_dict()',
                stacklevel=2,
            )
        state_dict.setdefault(prefix + 'temp', temp)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f'{self.gamma.numel()}, aggregation={self.aggregation!r}, '
            f'normalization={self.normalization!r}, '
            f'activation={self.activation!r}, eps={self.eps}'
        )
