"""The tail of a residual block with reverse attention, as one operation.

``y = act(F + G x)`` with ``G = 1 + s N(||F||)`` and ``s = gamma / temp``,
where mostly ``F = BN(z)``, z being the output of the block's last convolution.
From the paper's equations autograd keeps every intermediate step. Here it
keeps z, x and y, which the layers around keep anyway, and (N, C) numbers.

:meth:`.ReverseAttention.residual` takes the first of these paths that it can;
all compute the same within rounding, and second derivatives are the paper's:

1. 'fused', :func:`bn_tail`: the norm is exactly a BatchNorm2d, without hooks.
2. 'given', :func:`tail`: after any other norm; it keeps F in addition.
3. 'reference', calling the layer: the equations one by one, for its variants,
   a layer with hooks, traces and exports, torch.func and forward-mode AD.

:func:`force_path` leaves out the first ones, or compiles them. For a whole
process the environment does: ``RA_MM_TAIL=compiled tools/train.py ...``.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.linalg import vector_norm
from torch.nn.functional import batch_norm
from torch.nn.modules import module as _module

aten = torch.ops.aten

PATHS = ('reference', 'given', 'fused', 'compiled')
_most = os.environ.get('RA_MM_TAIL', 'fused')
if _most not in PATHS:
    raise ValueError(
        f'RA_MM_TAIL={_most!r} in the environment: expected one '
        f'of {", ".join(map(repr, PATHS))}'
    )


@contextmanager
def force_path(path: str) -> Iterator[None]:
    """Take this path, or where it is impossible the next one of the list.

    Args:
        path (str): 'reference', 'given', 'fused' (as without it), or
            'compiled': 'fused' and 'given' by way of :func:`torch.compile`,
            for a model that is not compiled as a whole.

    Raises:
        ValueError: If there is no such path.
    """
    global _most
    if path not in PATHS:
        raise ValueError(
            f'path={path!r}: expected one of {", ".join(map(repr, PATHS))}'
        )
    before, _most = _most, path
    try:
        yield
    finally:
        _most = before


def can_take(path: str, F: Tensor, x: Tensor) -> bool:
    """Whether 'fused' or 'given' may and can compute the tail of F (or z)."""
    if PATHS.index(path) > PATHS.index(_most):
        return False
    if (
        any(type(t) not in (Tensor, nn.Parameter) for t in (F, x))
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or forward_ad._current_level >= 0
    ):
        return False
    if (
        not torch.compiler.is_compiling()
        and torch._C._are_functorch_transforms_active()
    ):
        return False
    return F.shape == x.shape and F.dtype == x.dtype and F.numel() > 0


def is_plain_bn(norm: Callable, z: Tensor) -> bool:
    """Whether :func:`bn_tail` does just what calling ``norm`` would."""
    return (
        type(norm) is nn.BatchNorm2d and not is_watched(norm) and z.numel() > z.shape[1]
    )  # one value a channel is an error


def is_watched(m: nn.Module) -> bool:
    """Whether m does more than its class says: hooks, or a patched method."""
    return bool(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
        or 'forward' in m.__dict__
        or 'gate' in m.__dict__
    )


# F given


def tail(
    F: Tensor, x: Tensor, scale: Tensor, eps: float = 1e-6, relu: bool = True
) -> Tensor:
    """``y = relu(F + G x)``, Eqs. 3, 5, 8 and 2 of the paper.

    Args:
        F (Tensor): F(x) of shape (N, C, H, W), of any floating dtype.
        x (Tensor): The shortcut, of the same shape and dtype.
        scale (Tensor): gamma / temp of shape (C, ). G is computed in float32
            (float64 for a float64 F).
        eps (float): Added to the mean in Eq. 5. Defaults to 1e-6.
        relu (bool): Whether a ReLU follows the sum. Defaults to True.

    Returns:
        Tensor: y of the same shape and dtype.
    """
    return _Tail.apply(F, x, scale, eps, relu, _most == 'compiled')


class _Tail(Function):
    @staticmethod
    def forward(ctx, F, x, s, eps, relu, compiled):
        y, n = _maybe(compiled, _forward)(F, x, s, eps, relu)
        ctx.save_for_backward(F, x, s, y if relu else None, n)
        ctx.eps, ctx.compiled = eps, compiled
        return y

    @staticmethod
    def backward(ctx, dy):
        F, x, s, y, n = ctx.saved_tensors
        if _wants_graph():

            def reference(F, x, s):
                return _reference(F, x, s, ctx.eps, y is not None)

            grads = _differentiable(reference, dy, F, x, s)
        else:
            grads = _maybe(ctx.compiled, _backward)(dy, F, x, s, y, n, ctx.eps)
        return *grads, None, None, None


def _forward(F, x, s, eps, relu):
    n = _norm(F)
    _, _, G = _gate(n, s, eps)
    y = torch.addcmul(F, x, _planes(G).to(x.dtype))  # Eq. 2
    return (y.relu_() if relu else y), n


def _backward(dy, F, x, s, y, n, eps):
    inv, u, G = _gate(n, s, eps)
    g = dy.clone() if y is None else aten.threshold_backward(dy, y, 0)
    _, s2 = _sums(g, x, torch.zeros_like(n))  # sum g x
    ds, kappa = _gate_backward(s2, n, inv, u, s)
    dx = g * _planes(G).to(x.dtype)
    for g_i, F_i, kappa_i in _images(g, F, kappa):
        g_i.addcmul_(F_i, _planes(kappa_i))  # dF
    return g, dx, ds


# With batch norm


def bn_tail(
    z: Tensor,
    bn: nn.BatchNorm2d,
    x: Tensor,
    scale: Tensor,
    eps: float = 1e-6,
    relu: bool = True,
) -> Tensor:
    """``y = relu(F + G x)`` with ``F = bn(z)``, see :func:`tail`.

    When training, the running statistics of ``bn`` change as if it had been
    called. Statistics are computed in float32 (float64 for a float64 z).

    Args:
        z (Tensor): What ``bn`` would be called with, of shape (N, C, H, W),
            with more than one value in each channel when training.
        bn (nn.BatchNorm2d): In training or eval mode, with any options.
        x, scale, eps, relu: As for :func:`tail`.

    Returns:
        Tensor: y of the same shape and dtype.
    """
    training = bn.training or bn.running_mean is None
    learns = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (z, x, scale, bn.weight, bn.bias)
    )
    if not training and not learns:
        F = bn(z)  # nobody else has it: y takes its place
        _, _, G = _gate(_norm(F), scale, eps)
        return _add(F, x, G, relu)

    mean, var = (None, None) if training else (bn.running_mean, bn.running_var)
    y, mu, V = _BNTail.apply(
        z,
        x,
        scale,
        bn.weight,
        bn.bias,
        mean,
        var,
        bn.eps,
        eps,
        relu,
        _most == 'compiled',
    )
    if bn.training and bn.track_running_stats:
        _track(bn, mu, V, z.numel() // z.shape[1])
    return y


@torch.no_grad()
def _track(bn, mu, V, M):
    bn.num_batches_tracked.add_(1)
    momentum = bn.momentum
    if momentum is None:  # the average of all batches
        momentum = 1 / bn.num_batches_tracked
    bn.running_mean.mul_(1 - momentum).add_(momentum * mu)
    bn.running_var.mul_(1 - momentum).add_(momentum * V * (M / (M - 1)))


class _BNTail(Function):
    @staticmethod
    def forward(ctx, z, x, s, w, b, mean, var, eps_bn, eps, relu, compiled):
        y, *kept = _maybe(compiled, _bn_forward)(
            z, x, s, w, b, mean, var, eps_bn, eps, relu
        )
        ctx.save_for_backward(z, x, s, w, b, y if relu else None, *kept)
        ctx.options = mean is None, eps_bn, eps
        ctx.compiled = compiled
        mu, V, _, _ = kept
        ctx.mark_non_differentiable(mu, V)
        return y, mu, V

    @staticmethod
    def backward(ctx, dy, dmu, dV):
        # Read once: checkpointing gives them out only once.
        saved = z, x, s, w, b, y, mu, V, *_ = ctx.saved_tensors
        if _wants_graph():

            def reference(z, x, s, w, b):
                of_batch, eps_bn, eps = ctx.options
                mean, var = (None, None) if of_batch else (mu, V)
                F = batch_norm(z, mean, var, w, b, of_batch, 0, eps_bn)
                return _reference(F, x, s, eps, y is not None)

            grads = _differentiable(reference, dy, z, x, s, w, b)
        else:
            backward = _maybe(ctx.compiled, _bn_backward)
            grads = backward(dy, *saved, *ctx.options)
        return *grads, *(None for _ in range(6))


def _bn_forward(z, x, s, w, b, mean, var, eps_bn, eps, relu):
    m, Q = _moments(z)
    S = z.shape[2] * z.shape[3]
    if mean is None:  # those of the planes combined, by Chan's rule
        mu = m.mean(dim=0)
        V = (Q.sum(dim=0) + S * (m - mu).square().sum(dim=0)) / (len(z) * S)
    else:
        mu, V = mean.to(m.dtype), var.to(m.dtype)
    _, _, _, _, n = _bn_norm(m, Q, mu, V, w, b, S, eps_bn)
    _, _, G = _gate(n, s, eps)
    w, b = (t if t is None else t.to(m.dtype) for t in (w, b))
    # Detached: some versions of torch.compile miss that these have no grad.
    F = batch_norm(z, mu.detach(), V.detach(), w, b, False, 0, eps_bn)
    return _add(F, x, G, relu), mu, V, m, Q


def _bn_backward(dy, z, x, s, w, b, y, mu, V, m, Q, of_batch, eps_bn, eps):
    S = z.shape[2] * z.shape[3]
    M = len(z) * S
    r, a, d, fbar, n = _bn_norm(m, Q, mu, V, w, b, S, eps_bn)
    inv, u, G = _gate(n, s, eps)
    g = dy.clone() if y is None else aten.threshold_backward(dy, y, 0)
    s0, s1 = _sums(g, z, m)
    s1 = s1 + d * s0  # sum g (z - mu)
    _, s2 = _sums(g, x, torch.zeros_like(m))  # sum g x
    ds, kappa = _gate_backward(s2, n, inv, u, s)
    dx = g * _planes(G).to(x.dtype)
    # dF = g + kappa F is never formed: its sums follow from those of g.
    db = (s0 + kappa * S * fbar).sum(dim=0)  # sum dF
    T = (s1 + kappa * (a * Q + S * d * fbar)).sum(dim=0)  # sum dF (z - mu)
    c0, c1 = (db / M, r.square() * T / M) if of_batch else (0, 0)
    # dz = a (dF - c0 - c1 (z - mu)) = a g + A z + B
    A = a * (kappa * a - c1)
    B = a * (kappa * fbar - c0 - c1 * d) - A * m
    for g_i, z_i, A_i, B_i in _images(g, z, A, B):
        dz = g_i.to(a.dtype).mul_(_planes(a))
        g_i.copy_(dz.addcmul_(z_i, _planes(A_i)).add_(_planes(B_i)))
    return g, dx, ds, None if w is None else r * T, None if b is None else db


def _bn_norm(m, Q, mu, V, w, b, S, eps_bn):
    """F = a (z - mu) + b, its mean fbar in a plane, and its norm n there."""
    r = (V + eps_bn).rsqrt()
    a = r if w is None else w * r
    d = m - mu
    fbar = a * d if b is None else a * d + b
    n = (a.square() * Q + S * fbar.square()).sqrt()  # nothing cancels
    return r, a, d, fbar, n


# What both share


def _gate(n, s, eps):
    """G of the norms n of Eq. 3."""
    inv = 1 / (n.mean(dim=1, keepdim=True) + eps)
    u = n * inv  # Eq. 5
    return inv, u, 1 + s * u  # Eq. 8


def _gate_backward(s2, n, inv, u, s):
    """ds, and kappa: G adds ``kappa F`` to the gradient of F."""
    du = s * s2
    dn = (du - (du * u).mean(dim=1, keepdim=True)) * inv
    kappa = torch.where(n > 0, dn / n, 0)
    return (s2 * u).sum(dim=0), kappa


def _add(F, x, G, relu):
    """Eq. 2, in the place of F."""
    for F_i, x_i, G_i in _images(F, x, G):
        F_i.addcmul_(x_i, _planes(G_i).to(x.dtype))
        if relu:
            F_i.relu_()
    return F


def _planes(t):
    return t[..., None, None]


def _maybe(compiled, function):
    return _compile(function) if compiled else function


@functools.cache
def _compile(function):
    return torch.compile(function)


# Second derivatives


def _wants_graph():
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _differentiable(function, dy, *inputs):
    """The gradients of ``function(*inputs)``, with a graph of their own."""
    # Views, since one input may be computed from another.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    learns = [t is not None and t.requires_grad for t in inputs]
    grads = torch.autograd.grad(
        function(*inputs),
        [t for t, yes in zip(inputs, learns) if yes],
        dy,
        create_graph=True,
    )
    grads = iter(grads)
    return [next(grads) if yes else None for yes in learns]


def _reference(F, x, s, eps, relu):
    n = vector_norm(F, 2, dim=(2, 3), dtype=wide(F))  # Eq. 3
    _, _, G = _gate(n, s, eps)
    y = F + _planes(G).to(x.dtype) * x  # Eq. 2
    return y.relu() if relu else y


# Sums over planes. On a CPU a temporary that does not fit into the cache costs
# more than its arithmetic, so images are taken a few at a time; and some
# reductions are many times slower than others, so batch norm's own stand in.

CACHED = 2**18  # values


def wide(t: Tensor) -> torch.dtype:
    """float32 at least."""
    return torch.promote_types(t.dtype, torch.float32)


def _eager_on_cpu(t):
    return t.device.type == 'cpu' and not torch.compiler.is_compiling()


def _images(*tensors):
    first = tensors[0]
    if _eager_on_cpu(first):
        few = max(1, CACHED // first[0].numel())
        return zip(*(t.split(few) for t in tensors))
    return [tensors]


def _norm(F):
    if _eager_on_cpu(F) and not F.is_contiguous():
        zero = torch.zeros(F.shape[:2], dtype=wide(F))
        return _sums(F, F, zero)[1].sqrt()
    return vector_norm(F, 2, dim=(2, 3), dtype=wide(F))


def _moments(z):
    """The mean m of each plane, and Q = sum (z - m)^2."""
    S = z.shape[2] * z.shape[3]
    if not _eager_on_cpu(z):
        V, m = torch.var_mean(z.to(wide(z)), dim=(2, 3), correction=0)
        return m, V * S
    if z.is_contiguous():
        m = z.mean(dim=(2, 3), dtype=wide(z))
        n = [_norm(z_i - _planes(m_i)) for z_i, m_i in _images(z, m)]
        return m, torch.cat(n).square()
    m, V = zip(
        *(
            torch.batch_norm_update_stats(z_i.to(wide(z)), None, None, 0)
            for z_i in z.split(1)
        )
    )
    return torch.stack(m), torch.stack(V) * S


def _sums(g, t, m):
    """sum g and sum g (t - m) of each plane."""
    if not _eager_on_cpu(g):
        g, t = g.to(m.dtype), t.to(m.dtype)
        return g.sum(dim=(2, 3)), (g * (t - _planes(m))).sum(dim=(2, 3))
    if g.is_contiguous() and t.is_contiguous():
        s0, s1 = _channel_sums(
            g.flatten(0, 1)[None], t.flatten(0, 1)[None], m.flatten()
        )
        return s0.view_as(m), s1.view_as(m)
    s0, s1 = zip(*(_channel_sums(*image) for image in zip(g.split(1), t.split(1), m)))
    return torch.stack(s0), torch.stack(s1)


def _channel_sums(g, t, m):
    one = torch.ones_like(m)
    _, s1, s0 = aten.native_batch_norm_backward(
        g.to(m.dtype),
        t.to(m.dtype),
        one,
        None,
        None,
        m,
        one,
        True,
        0,
        [False, True, True],
    )
    return s0, s1
