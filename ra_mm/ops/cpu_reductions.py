"""Sums over the planes of a feature map in few passes over the memory.

A plane has one, two or three dimensions: (N, C, L), (N, C, H, W) or (N, C, D, H, W).

In eager mode on a CPU some of PyTorch's reductions over planes are many times
slower than others (a norm over a channels-last map by a factor of 35), so the
kernels of its batch norm stand in for them; and a temporary that does not fit
into the cache costs more than its arithmetic, so that a batch is processed a
few images at a time. On other devices the kernels of batch norm sum products
of contiguous maps, in float32 without a temporary. Otherwise, and under
torch.compile, each function here is its plain definition.
"""

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor, fx
from torch.linalg import vector_norm

from ra_mm._torch import is_compiling

aten = torch.ops.aten

CACHED_VALUES = 2**18  # the size of a temporary that stays in the cache
as_on_gpu = False  # runs the code for a GPU on a CPU, for tests


def accum_dtype(t: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float32, or float64 for float64."""
    return t.dtype if t.dtype == torch.float64 else torch.float32


def spatial_dims(F: Tensor) -> tuple[int, ...]:
    """The dimensions after N and C. A trace of torch.fx has it as one call.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(F, fx.Proxy):
        return F.tracer.create_proxy('call_function', spatial_dims, (F,), {})
    if F.ndim < 3:
        raise ValueError(
            f'F(x) of shape {tuple(F.shape)}: expected a feature map (N, C, L), '
            '(N, C, H, W) or (N, C, D, H, W)'
        )
    return tuple(range(2, F.ndim))


def per_plane(t: Tensor, F: Tensor) -> Tensor:
    """A value of each plane or channel, to broadcast over the planes of F."""
    if isinstance(F, fx.Proxy):
        return F.tracer.create_proxy('call_function', per_plane, (t, F), {})
    index = (..., *(None for _ in spatial_dims(F)))
    return t[index]


def plane_size(F: Tensor) -> int:
    """The number of values of each plane; in a trace by torch.jit, of any size."""
    return prod(F.shape[2:])


def plane_norm(F: Tensor) -> Tensor:
    """||F_nc||_2 of each plane, (N, C)."""
    if _is_eager_cpu(F) and not F.is_contiguous():
        return plane_dot(F, F).sqrt()
    return vector_norm(F, 2, dim=spatial_dims(F), dtype=accum_dtype(F))


def plane_moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean m of each plane, and Q = sum (z - m)^2, both (N, C)."""
    dims = spatial_dims(z)
    if not _is_eager_cpu(z):
        V, m = torch.var_mean(z.to(accum_dtype(z)), dim=dims, correction=0)
        return m, V * plane_size(z)
    if z.is_contiguous():
        m = z.mean(dim=dims, dtype=accum_dtype(z))
        norms = [
            plane_norm(z_i - per_plane(m_i, z_i)) for z_i, m_i in batch_chunks(z, m)
        ]
        return m, torch.cat(norms).square()
    stats = [
        torch.batch_norm_update_stats(z_i.to(accum_dtype(z)), None, None, 0)
        for z_i in z.split(1)
    ]
    m, V = (torch.stack(s) for s in zip(*stats))
    return m, V * plane_size(z)


def plane_sums(g: Tensor, t: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum g and sum g (t - m) of each plane, both (N, C), in the dtype of m."""
    if _is_eager(g) and g.is_contiguous() and t.is_contiguous():
        s0, s1 = _bn_sums(g.flatten(0, 1)[None], t.flatten(0, 1)[None], m.flatten())
        return s0.view_as(m), s1.view_as(m)
    if _is_eager_cpu(g):
        sums = [_bn_sums(*image) for image in zip(g.split(1), t.split(1), m)]
        s0, s1 = (torch.stack(s) for s in zip(*sums))
        return s0, s1
    # Operands of a lower precision are converted as they are read.
    s1 = (g * (t - per_plane(m, t))).sum(dim=spatial_dims(g))
    return g.sum(dim=spatial_dims(g), dtype=m.dtype), s1


def plane_dot(g: Tensor, t: Tensor) -> Tensor:
    """sum g t of each plane, (N, C), in the dtype to accumulate in."""
    dtype = accum_dtype(g)
    contiguous = g.is_contiguous() and t.is_contiguous()
    if _is_eager_cpu(g) or (_is_eager(g) and contiguous):
        zero = torch.zeros(g.shape[:2], dtype=dtype, device=g.device)
        return plane_sums(g, t, zero)[1]
    if _is_eager(g):  # without a copy of g in float32
        return torch.addcmul(g.new_zeros(1, dtype=dtype), g, t).sum(dim=spatial_dims(g))
    return (g.to(dtype) * t).sum(dim=spatial_dims(g))


def plane_affine_(g: Tensor, z: Tensor, a: Tensor, A: Tensor, B: Tensor) -> None:
    """g := a g + A z + B, with a of shape (C,), A and B (N, C)."""
    if _is_eager_gpu(g):  # two passes, one rounding
        sum_ = torch.addcmul(per_plane(B, z), z, per_plane(A, z))
        torch.addcmul(sum_, g, per_plane(a, g), out=g)
        return
    for g_i, z_i, A_i, B_i in batch_chunks(g, z, A, B):
        sum_ = g_i.to(a.dtype).mul_(per_plane(a, g_i))
        g_i.copy_(sum_.addcmul_(z_i, per_plane(A_i, z_i)).add_(per_plane(B_i, z_i)))


def add_scaled(F: Tensor, x: Tensor, G: Tensor) -> Tensor:
    """F + G x, with G of shape (N, C)."""
    out = torch.empty_like(F) if _is_eager_gpu(F) else None
    return torch.addcmul(F, x, _factor(G, x), out=out)


def add_scaled_(F: Tensor, x: Tensor, G: Tensor) -> None:
    """F := F + G x, with G of shape (N, C)."""
    F.addcmul_(x, _factor(G, x))


def scaled(g: Tensor, G: Tensor) -> Tensor:
    """G g, with G of shape (N, C)."""
    out = torch.empty_like(g) if _is_eager_gpu(g) else None
    return torch.mul(g, _factor(G, g), out=out)


def _factor(G, t):
    """G to multiply t with: in its own precision where PyTorch mixes dtypes.

    Rounded to bfloat16, a G close to 1 would be 1. torch.compile computes in
    float32 anyway.
    """
    return per_plane(G if _is_eager_gpu(t) else G.to(t.dtype), t)


def batch_chunks(*tensors: Tensor) -> Iterable:
    """The tensors, split along N into pieces that fit into a CPU's cache."""
    first = tensors[0]
    if not _is_eager_cpu(first):
        return [tensors]
    images = max(1, CACHED_VALUES // first[0].numel())
    return zip(*(t.split(images) for t in tensors))


def _is_eager(t):
    return t.device.type in ('cpu', 'cuda') and not is_compiling()


def _is_eager_cpu(t):
    return t.device.type == 'cpu' and not is_compiling() and not as_on_gpu


def _is_eager_gpu(t):
    return _is_eager(t) and not _is_eager_cpu(t)


def _bn_sums(g, t, m):
    """Batch norm's gradients of bias and weight are these sums."""
    one = torch.ones_like(m)
    _, s1, s0 = aten.native_batch_norm_backward(
        g, t, one, None, None, m, one, True, 0, [False, True, True]
    )
    return s0, s1
