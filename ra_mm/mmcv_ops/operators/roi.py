"""Feature maps of regions of interest: RoIAlign and RoIPool."""

from operator import itemgetter

import torch
from torch import Tensor

from .common import allow_nondeterministic, ops, to_float, unavailable

# This puts mmcv's sizes into torchvision's order.
_align = itemgetter(
    'spatial_scale', 'aligned_height', 'aligned_width', 'sampling_ratio'
)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    pool_mode: int,
    aligned: bool,
    **sizes: float,
) -> None:
    if pool_mode != 1:
        raise unavailable("roi_align with pool_mode='max'")
    input, rois = to_float(input, rois)
    scale, *size, samples = _align(sizes)
    output.copy_(ops.roi_align(input, rois, scale, *size, samples, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    pool_mode: int,
    aligned: bool,
    **sizes: float,
) -> None:
    grad, rois = to_float(grad_output, rois)
    scale, *size, samples = _align(sizes)
    size += grad_input.shape
    with allow_nondeterministic():
        grad_input.copy_(
            ops._roi_align_backward(grad, rois, scale, *size, samples, aligned)
        )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Pool as mmcv does, which does not round RoIs to pixels as torchvision does."""
    input, rois = to_float(input, rois)
    height, width = input.shape[2:]
    x1, y1 = rois[:, 1:3].mul(spatial_scale).unbind(1)
    x2, y2 = (rois[:, 3:] + 1).mul(spatial_scale).unbind(1)
    inside = ((x2 > x1) & (y2 > y1)).tolist()
    columns = _bins(x1, x2, pooled_width, width)
    rows = _bins(y1, y2, pooled_height, height)
    output.zero_()
    argmax.fill_(-1)  # bins without a pixel, whose gradient is dropped
    for k, image in enumerate(rois[:, 0].long().tolist()):
        if not inside[k]:
            continue
        for j, (left, right) in enumerate(columns[k]):
            if left == right:
                continue
            # Of equal pixels the first one, row by row, gets the gradient.
            across, x = input[image, :, :, left:right].max(2)
            for i, (top, bottom) in enumerate(rows[k]):
                if top == bottom:
                    continue
                highest, y = across[:, top:bottom].max(1)
                y += top
                output[k, :, i, j] = highest
                argmax[k, :, i, j] = y * width + left + x.gather(1, y[:, None])[:, 0]


def _bins(start, end, count, limit):
    """First and one past the last pixel of each bin of each RoI."""
    size = ((end - start) / count)[:, None]
    steps = torch.arange(count + 1, dtype=start.dtype, device=start.device)
    edges = steps * size + start[:, None]
    first = edges[:, :-1].floor().clamp(0, limit)
    last = edges[:, 1:].ceil().clamp(0, limit)
    bins = torch.stack([first, torch.maximum(first, last)], 2)
    return bins.long().tolist()


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    _, channels, height, width = grad_input.shape
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(
        channels, device=rois.device
    )
    pixels = planes[:, :, None, None] * (height * width) + argmax
    pooled = argmax >= 0
    grad_input.view(-1).index_add_(0, pixels[pooled], grad_output[pooled])
