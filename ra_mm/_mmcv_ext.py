"""Operators for an mmcv that was installed without its compiled ones.

``python -m ra_mm.mmcv_ops install`` copies this file to ``mmcv/_ext.py``, where
mmcv looks for its compiled operators; it needs torch and torchvision only. The
functions have the names, arguments and preallocated results of mmcv's own
(2.1 to 2.3). torchvision computes nms, RoIAlign (average) and the deformable
convolutions v1 and v2 on the CPU and on CUDA; RoIPool, soft-nms and the sigmoid
focal loss are written in PyTorch. Any other operator raises an error when it is
called.
"""

from contextlib import contextmanager

import torch

try:
    import torchvision

    _ops = torch.ops.torchvision
    _cuda_version = _ops._cuda_version()
except Exception as e:
    raise ImportError(
        f'{__file__} stands in for the compiled operators of mmcv and needs a '
        f'torchvision that fits torch {torch.__version__}: {e}'
    ) from e


def get_compiler_version():
    return f'torchvision {torchvision.__version__} (stand-in of ra_mm)'


def get_compiling_cuda_version():
    """The CUDA version of torchvision's operators, in mmcv's format."""
    if _cuda_version <= 0:
        return 'not available'
    return f'{_cuda_version // 1000}.{_cuda_version // 10 % 100}'


def __getattr__(name):
    # mmcv looks all operators up when it is imported, and calls few of them.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def unavailable(*args, **kwargs):
        raise _unavailable(name)

    unavailable.__name__ = name
    return unavailable


def _unavailable(operator):
    return NotImplementedError(
        f'mmcv was installed without its compiled operators, and the stand-in '
        f'for them ({__file__}) does not have {operator}. Install an mmcv with '
        'compiled operators: a wheel for your torch and CUDA, or compile it, '
        'with torch installed, by pip install --no-build-isolation '
        '--no-cache-dir --force-reinstall --no-deps onedl-mmcv (or mmcv, '
        'whichever you have)'
    )


def _to_float(*tensors):
    """Cast all tensors to float64 if the first is float64, or else to float32.

    torchvision's operators do not support bfloat16, nor all of them float16.
    """
    dtype = tensors[0].dtype
    if dtype != torch.float64:
        dtype = torch.float32
    return [tensor.to(dtype) for tensor in tensors]


# mmcv's names of sizes, in torchvision's order.
_ROI_ALIGN = ('spatial_scale', 'aligned_height', 'aligned_width', 'sampling_ratio')
_DEFORM = (
    *('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW'),
    *('group', 'deformable_group'),
)
_MODULATED = (
    *('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w'),
    *('group', 'deformable_group'),
)


def _pick(sizes, names):
    return [sizes[name] for name in names]


@contextmanager
def _allow_nondeterministic():
    """Make torchvision warn instead of raise in PyTorch's deterministic mode.

    Its CUDA kernels add gradients up in no fixed order and raise an error in this
    mode. mmcv's do the same and never check the mode, so configs with
    ``randomness=dict(deterministic=True)`` train with them.
    """
    strict = (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    if strict:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        if strict:
            torch.use_deterministic_algorithms(True)


# ------------------------------------------------------------------------ nms


def nms(boxes, scores, iou_threshold, offset):
    (boxes,) = _to_float(boxes)
    if boxes.dtype == torch.float32:
        # mmcv compares in float32: an IoU of 3/5 is not above 0.6.
        iou_threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv's order of equal scores: its sort is not stable, torchvision's is.
    order = scores.sort(0, descending=True)[1]
    ranks = torch.arange(len(order), 0, -1, device=boxes.device).to(boxes.dtype)
    return order[_ops.nms(boxes[order], ranks, iou_threshold)]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Decay the scores; equal scores are taken in the order of the boxes."""
    boxes, scores = _to_float(boxes, scores)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    rest, kept = torch.arange(len(boxes), device=boxes.device), []
    while len(rest):
        best = int(scores.argmax())
        box, area = boxes[rest[best]], areas[rest[best]]
        dets[len(kept), :4], dets[len(kept), 4] = box, scores[best]
        kept.append(int(rest[best]))
        others = torch.arange(len(rest), device=rest.device) != best
        rest, scores = rest[others], scores[others]

        top_left = torch.maximum(box[:2], boxes[rest, :2])
        bottom_right = torch.minimum(box[2:], boxes[rest, 2:])
        shared = (bottom_right - top_left + offset).clamp(min=0).prod(1)
        iou = shared / (area + areas[rest] - shared)
        if method == 2:  # gaussian
            scores = scores * (-(iou**2) / sigma).exp()
        else:
            decayed = scores * (1 - iou) if method == 1 else scores * 0
            scores = torch.where(iou >= iou_threshold, decayed, scores)
        high = ~(scores < min_score)
        rest, scores = rest[high], scores[high]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


# -------------------------------------------------------------- RoI operators


def roi_align_forward(
    input, rois, output, argmax_y, argmax_x, pool_mode, aligned, **sizes
):
    if pool_mode != 1:
        raise _unavailable("roi_align with pool_mode='max'")
    input, rois = _to_float(input, rois)
    scale, *size, samples = _pick(sizes, _ROI_ALIGN)
    output.copy_(_ops.roi_align(input, rois, scale, *size, samples, aligned))


def roi_align_backward(
    grad_output, rois, argmax_y, argmax_x, grad_input, pool_mode, aligned, **sizes
):
    grad, rois = _to_float(grad_output, rois)
    scale, *size, samples = _pick(sizes, _ROI_ALIGN)
    size += grad_input.shape
    with _allow_nondeterministic():
        grad_input.copy_(
            _ops._roi_align_backward(grad, rois, scale, *size, samples, aligned)
        )


def roi_pool_forward(
    input, rois, output, argmax, pooled_height, pooled_width, spatial_scale
):
    """Pool as mmcv does, which does not round RoIs to pixels as torchvision does."""
    input, rois = _to_float(input, rois)
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
    grad_output, rois, argmax, grad_input, pooled_height, pooled_width, spatial_scale
):
    _, channels, height, width = grad_input.shape
    planes = rois[:, 0].long()[:, None] * channels + torch.arange(
        channels, device=rois.device
    )
    pixels = planes[:, :, None, None] * (height * width) + argmax
    pooled = argmax >= 0
    grad_input.view(-1).index_add_(0, pixels[pooled], grad_output[pooled])


# ---------------------------------------------------- deformable convolutions


def deform_conv_forward(input, weight, offset, output, columns, ones, **sizes):
    tensors = _deform_tensors(input, weight, offset)
    output.copy_(_ops.deform_conv2d(*tensors, *_pick(sizes, _DEFORM), False))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, **sizes
):
    grads = _deform_backward(
        grad_output,
        _deform_tensors(input, weight, offset),
        _pick(sizes, _DEFORM),
        False,
    )
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    # torchvision computes all gradients at once: keep this one for the next call.
    columns.resize_as_(grads[1]).copy_(grads[1])


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, scale, **sizes
):
    if columns.shape != grad_weight.shape:  # the input needs no gradient
        # mmcv does not pass the weight, whose values do not affect its gradient.
        tensors = _deform_tensors(input, torch.zeros_like(grad_weight), offset)
        grads = _deform_backward(grad_output, tensors, _pick(sizes, _DEFORM), False)
        columns = grads[1]
    grad_weight.add_(columns.to(grad_weight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **sizes
):
    tensors = _deform_tensors(input, weight, offset, mask, bias if with_bias else None)
    output.copy_(_ops.deform_conv2d(*tensors, *_pick(sizes, _MODULATED), True))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    with_bias,
    **sizes,
):
    tensors = _deform_tensors(input, weight, offset, mask, bias if with_bias else None)
    grads = _deform_backward(grad_output, tensors, _pick(sizes, _MODULATED), True)
    results = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias]
    for result, grad in list(zip(results, grads))[: 5 if with_bias else 4]:
        result.copy_(grad)


def _deform_backward(grad_output, tensors, sizes, use_mask):
    grad = grad_output.to(tensors[0].dtype)
    with _allow_nondeterministic():
        return _ops._deform_conv2d_backward(grad, *tensors, *sizes, use_mask)


def _deform_tensors(input, weight, offset, mask=None, bias=None):
    """torchvision's order: input, weight, offset, mask, bias."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    return _to_float(input, weight, offset, mask, bias)


# ----------------------------------------------------------------- focal loss


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    positive, p, log_p, log_not_p = _focal_terms(input, target)
    loss = torch.where(
        positive, -alpha * (1 - p) ** gamma * log_p, -(1 - alpha) * p**gamma * log_not_p
    )
    output.copy_(loss * weight[target][:, None] if len(weight) else loss)


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    positive, p, log_p, log_not_p = _focal_terms(input, target)
    grad = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p),
        -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_not_p - p),
    )
    grad_input.copy_(grad * weight[target][:, None] if len(weight) else grad)


def _focal_terms(input, target):
    (input,) = _to_float(input)
    p = input.sigmoid()
    tiny = torch.finfo(torch.float32).tiny
    classes = torch.arange(input.shape[1], device=input.device)
    # The target of the background is the number of classes.
    positive = target[:, None] == classes
    return positive, p, p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log()
