"""The tail of a residual block with reverse attention, as one operation.

``y = act(F + G x)`` with ``G = 1 + s N(||F||_2)`` and ``s = gamma / temp``,
where usually ``F = BN(z)`` and z is the output of the block's last convolution.
Autograd would keep every intermediate step of the paper's equations. These
functions keep z, x and y, which the neighbouring layers keep anyway, and some
(N, C) statistics.

The symbols, and the derivation of both backward passes, are those of
``docs/fused_tail.md``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.linalg import vector_norm
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from ra_mm._torch import is_compiling

from .cpu_reductions import (
    accum_dtype,
    add_scaled,
    add_scaled_,
    batch_chunks,
    per_plane,
    plane_affine_,
    plane_dot,
    plane_moments,
    plane_norm,
    plane_size,
    plane_sums,
    scaled,
    spatial_dims,
)

aten = torch.ops.aten

# After any norm


def fused_sum(
    F: Tensor, x: Tensor, scale: Tensor, eps: float = 1e-6, relu: bool = True
) -> Tensor:
    """``y = relu(F + G x)``, Eqs. 3, 5, 8 and 2 of the paper.

    Args:
        F (Tensor): F(x) of shape (N, C, ...), of any floating dtype, with one
            to three spatial dimensions.
        x (Tensor): The shortcut, of the same shape and dtype.
        scale (Tensor): gamma / temp of shape (C, ). G is computed in float32
            (float64 for a float64 F).
        eps (float): Added to the mean in Eq. 5. Defaults to 1e-6.
        relu (bool): Whether a ReLU follows the sum. Defaults to True.

    Returns:
        Tensor: y of the same shape and dtype.
    """
    return FusedSum.apply(F, x, scale, eps, relu)


class FusedSum(Function):
    """The sum and its gradients, see :func:`.fused_sum`."""

    @staticmethod
    def forward(
        ctx: Any, F: Tensor, x: Tensor, s: Tensor, eps: float, relu: bool
    ) -> Tensor:
        n = plane_norm(F)
        _, _, G = _gate(n, s, eps)
        y = add_scaled(F, x, G)  # Eq. 2
        if relu:
            y.relu_()
        ctx.save_for_backward(F, x, s, y if relu else None, n)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        F, x, s, y, n = ctx.saved_tensors
        if _needs_double_backward():

            def reference(F, x, s):
                return _reference(F, x, s, ctx.eps, y is not None)

            grads = _differentiable(reference, dy, F, x, s)
        else:
            grads = _backward(dy, F, x, s, y, n, ctx.eps)
        return *grads, None, None


def _backward(dy, F, x, s, y, n, eps):
    inv, u, G = _gate(n, s, eps)
    g = dy.clone() if y is None else aten.threshold_backward(dy, y, 0)
    s2 = plane_dot(g, x)
    ds, kappa = _gate_backward(s2, n, inv, u, s)
    dx = scaled(g, G)
    for g_i, F_i, kappa_i in batch_chunks(g, F, kappa):
        g_i.addcmul_(F_i, per_plane(kappa_i, F_i))  # dF
    return g, dx, ds


# With the batch norm, F = BN(z)


def bn_tail(
    z: Tensor,
    bn: _BatchNorm,
    x: Tensor,
    scale: Tensor,
    eps: float = 1e-6,
    relu: bool = True,
) -> Tensor:
    """``y = relu(F + G x)`` with ``F = bn(z)``, see :func:`fused_sum`.

    When training, the running statistics of ``bn`` change as if it had been
    called. Statistics are computed in float32 (float64 for a float64 z).

    Args:
        z (Tensor): What ``bn`` would be called with, of shape (N, C, ...),
            with more than one value in each channel when training.
        bn (nn.BatchNorm1d, 2d or 3d): In training or eval mode, with any options.
        x, scale, eps, relu: As for :func:`fused_sum`.

    Returns:
        Tensor: y of the same shape and dtype.
    """
    training = bn.training or bn.running_mean is None
    learns = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (z, x, scale, bn.weight, bn.bias)
    )
    if not training and not learns:
        F = bn(z)  # F is local, so y can overwrite it
        _, _, G = _gate(plane_norm(F), scale, eps)
        return _sum_into_F(F, x, G, relu)

    mean, var = (None, None) if training else (bn.running_mean, bn.running_var)
    y, mu, V = BNTail.apply(
        z, x, scale, bn.weight, bn.bias, mean, var, bn.eps, eps, relu
    )
    if bn.training and bn.track_running_stats:
        _update_running_stats(bn, mu, V, z.numel() // z.shape[1])
    return y


@torch.no_grad()
def _update_running_stats(bn, mu, V, M):
    bn.num_batches_tracked.add_(1)
    momentum = bn.momentum
    if momentum is None:  # cumulative average
        momentum = 1 / bn.num_batches_tracked
    bn.running_mean.mul_(1 - momentum).add_(momentum * mu)
    bn.running_var.mul_(1 - momentum).add_(momentum * V * (M / (M - 1)))


class BNTail(Function):
    """Batch norm and sum with their gradients, see :func:`.bn_tail`."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        x: Tensor,
        s: Tensor,
        w: Tensor | None,
        b: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        eps_bn: float,
        eps: float,
        relu: bool,
    ) -> tuple:
        y, *kept = _bn_forward(z, x, s, w, b, mean, var, eps_bn, eps, relu)
        ctx.save_for_backward(z, x, s, w, b, y if relu else None, *kept)
        ctx.options = mean is None, eps_bn, eps
        mu, V, _, _ = kept
        ctx.mark_non_differentiable(mu, V)
        return y, mu, V

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dmu: Tensor, dV: Tensor) -> tuple:
        # Read once: torch.utils.checkpoint returns them only once.
        saved = z, x, s, w, b, y, mu, V, *_ = ctx.saved_tensors
        if _needs_double_backward():

            def reference(z, x, s, w, b):
                of_batch, eps_bn, eps = ctx.options
                mean, var = (None, None) if of_batch else (mu, V)
                F = batch_norm(z, mean, var, w, b, of_batch, 0, eps_bn)
                return _reference(F, x, s, eps, y is not None)

            grads = _differentiable(reference, dy, z, x, s, w, b)
        else:
            grads = _bn_backward(dy, *saved, *ctx.options)
        return *grads, *(None for _ in range(5))


def _bn_forward(z, x, s, w, b, mean, var, eps_bn, eps, relu):
    m, Q = plane_moments(z)
    S = plane_size(z)
    if mean is None:  # combine the planes' moments by Chan's rule
        mu = m.mean(dim=0)
        V = (Q.sum(dim=0) + S * (m - mu).square().sum(dim=0)) / (len(z) * S)
    else:
        mu, V = mean.to(m.dtype), var.to(m.dtype)
    _, _, _, _, n = _bn_norm(m, Q, mu, V, w, b, S, eps_bn)
    _, _, G = _gate(n, s, eps)
    w, b = (t if t is None else t.to(m.dtype) for t in (w, b))
    # Detached, since some versions of torch.compile take them to need grad.
    F = batch_norm(z, mu.detach(), V.detach(), w, b, False, 0, eps_bn)
    return _sum_into_F(F, x, G, relu), mu, V, m, Q


def _bn_backward(dy, z, x, s, w, b, y, mu, V, m, Q, of_batch, eps_bn, eps):
    S = plane_size(z)
    M = len(z) * S
    r, a, d, fbar, n = _bn_norm(m, Q, mu, V, w, b, S, eps_bn)
    inv, u, G = _gate(n, s, eps)
    g = dy.clone() if y is None else aten.threshold_backward(dy, y, 0)
    s0, s1 = plane_sums(g, z, m)
    s1 = s1 + d * s0  # sum g (z - mu)
    s2 = plane_dot(g, x)
    ds, kappa = _gate_backward(s2, n, inv, u, s)
    dx = scaled(g, G)
    # dF = g + kappa F is never formed: its sums follow from those of g.
    db = (s0 + kappa * S * fbar).sum(dim=0)  # sum dF
    T = (s1 + kappa * (a * Q + S * d * fbar)).sum(dim=0)  # sum dF (z - mu)
    c0, c1 = (db / M, r.square() * T / M) if of_batch else (0, 0)
    # dz = a (dF - c0 - c1 (z - mu)) = a g + A z + B
    A = a * (kappa * a - c1)
    B = a * (kappa * fbar - c0 - c1 * d) - A * m
    plane_affine_(g, z, a, A, B)
    return g, dx, ds, None if w is None else r * T, None if b is None else db


def _bn_norm(m, Q, mu, V, w, b, S, eps_bn):
    """Return r, a, d = m - mu, and the plane means and norms of F = a (z - mu) + b."""
    r = (V + eps_bn).rsqrt()
    a = r if w is None else w * r
    d = m - mu
    fbar = a * d if b is None else a * d + b
    n = (a.square() * Q + S * fbar.square()).sqrt()  # no cancellation
    return r, a, d, fbar, n


# For ONNX


def onnx_sum(F: Tensor, x: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """``y = F + G x`` in operators that onnxruntime is fast with, see :func:`fused_sum`.

    ReduceL2 adds up one value after the other. The matrix product of a plane, as a
    row, with itself as a column is vectorized, and reads F once as well. It gives
    (N, C, 1, 1), which G keeps for two spatial dimensions, so that no operator only
    changes shapes.
    """
    planes = F.to(accum_dtype(F))
    row = planes.reshape(planes.shape[0], planes.shape[1], 1, -1)
    n = (row @ row.transpose(2, 3)).sqrt()  # Eq. 3
    if F.ndim != 4:
        n = per_plane(n[..., 0, 0], F)
    _, _, G = _gate(n, per_plane(scale, F), eps)
    return F + G.to(x.dtype) * x  # Eq. 2


# The gate, from the norms n of Eq. 3


def _gate(n, s, eps):
    """Return 1 / (mean n + eps), u = N(n), and G."""
    inv = 1 / (n.mean(dim=1, keepdim=True) + eps)
    u = n * inv  # Eq. 5
    return inv, u, 1 + s * u  # Eq. 8


def _gate_backward(s2, n, inv, u, s):
    """Return ds, and the kappa of the gradient ``dF = g + kappa F``."""
    du = s * s2
    dn = (du - (du * u).mean(dim=1, keepdim=True)) * inv
    kappa = torch.where(n > 0, dn / n, 0)
    return (s2 * u).sum(dim=0), kappa


def _sum_into_F(F, x, G, relu):
    """Eq. 2, in place."""
    for F_i, x_i, G_i in batch_chunks(F, x, G):
        add_scaled_(F_i, x_i, G_i)
        if relu:
            F_i.relu_()
    return F


# Second derivatives: differentiate the plain equations instead


def _needs_double_backward():
    return torch.is_grad_enabled() and not is_compiling()


def _differentiable(function, dy, *inputs):
    """Return gradients of ``function(*inputs)`` that are differentiable themselves."""
    # Views, so that an input computed from another gets a gradient of its own.
    inputs = tuple(t if t is None else t.view_as(t) for t in inputs)
    learns = [t is not None and t.requires_grad for t in inputs]
    grads = iter(
        torch.autograd.grad(
            function(*inputs),
            [t for t, yes in zip(inputs, learns) if yes],
            dy,
            create_graph=True,
        )
    )
    return [next(grads) if yes else None for yes in learns]


def _reference(F, x, s, eps, relu):
    n = vector_norm(F, 2, dim=spatial_dims(F), dtype=accum_dtype(F))  # Eq. 3
    _, _, G = _gate(n, s, eps)
    y = F + per_plane(G, x).to(x.dtype) * x  # Eq. 2
    return y.relu() if relu else y
