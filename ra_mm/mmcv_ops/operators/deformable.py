"""Deformable convolutions and multi-scale deformable attention."""

import math
from operator import itemgetter

import torch
from torch import Tensor

from .common import allow_nondeterministic, ops, to_float

# These put mmcv's sizes into torchvision's order.
_GROUPS = ('group', 'deformable_group')
_deform = itemgetter('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', *_GROUPS)
_modulated = itemgetter(
    *('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w'), *_GROUPS
)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **sizes: int,
) -> None:
    tensors = _deform_tensors(input, weight, offset)
    output.copy_(ops.deform_conv2d(*tensors, *_deform(sizes), False))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **sizes: int,
) -> None:
    tensors = _deform_tensors(input, weight, offset)
    grads = _deform_backward(grad_output, tensors, _deform(sizes), False)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])
    # torchvision computes all gradients at once: keep this one for the next call.
    columns.resize_as_(grads[1]).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **sizes: int,
) -> None:
    if columns.shape != grad_weight.shape:  # the input needs no gradient
        # mmcv does not pass the weight, whose values do not affect its gradient.
        tensors = _deform_tensors(input, torch.zeros_like(grad_weight), offset)
        grads = _deform_backward(grad_output, tensors, _deform(sizes), False)
        columns = grads[1]
    grad_weight.add_(columns.to(grad_weight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    offset, mask = _first_values(output, offset, mask)
    tensors = _deform_tensors(input, weight, offset, mask, bias if with_bias else None)
    output.copy_(ops.deform_conv2d(*tensors, *_modulated(sizes), True))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    *grads: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask, grad_output = grads
    offset, mask = _first_values(grad_output, offset, mask)
    tensors = _deform_tensors(input, weight, offset, mask, bias if with_bias else None)
    grads = _deform_backward(grad_output, tensors, _modulated(sizes), True)
    results = [grad_input, grad_weight, grad_offset, grad_mask, grad_bias]
    for result, grad in list(zip(results, grads))[: 5 if with_bias else 4]:
        if result.shape == grad.shape:
            result.copy_(grad)
        else:  # the gradient of the first values; mmcv passes zeros for the others
            values = torch.zeros_like(result).flatten(1)
            values[:, : grad[0].numel()] = grad.flatten(1)
            result.copy_(values.view(result.shape))


def _first_values(output, *tensors):
    """Read offsets or masks that are larger than the output as mmcv does.

    DyHead passes such. mmcv takes the first values of each image, as they lie in
    memory, for a tensor of the output's size; torchvision refuses other sizes.
    """
    size = output.shape[2:]
    shapes = [(*tensor.shape[:2], *size) for tensor in tensors]
    return [
        tensor.flatten(1)[:, : math.prod(shape[1:])].reshape(shape)
        for tensor, shape in zip(tensors, shapes)
    ]


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start: Tensor,
    *inputs: Tensor,
    im2col_step: int,
) -> Tensor:
    output = _attend(spatial_shapes, *to_float(value, *inputs))
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start: Tensor,
    locations: Tensor,
    weights: Tensor,
    *grads: Tensor,
    im2col_step: int,
) -> None:
    grad_output, *results = grads
    inputs = to_float(value, locations, weights)
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = _attend(spatial_shapes, *inputs)
    with allow_nondeterministic():
        grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for result, grad in zip(results, grads):
        result.copy_(grad)


def _attend(spatial_shapes, value, sampling_locations, attention_weights):
    """mmcv's own version in PyTorch, which it uses on a CPU."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, spatial_shapes.tolist(), sampling_locations, attention_weights
    )


def _deform_backward(grad_output, tensors, sizes, use_mask):
    grad = grad_output.to(tensors[0].dtype)
    with allow_nondeterministic():
        return ops._deform_conv2d_backward(grad, *tensors, *sizes, use_mask)


def _deform_tensors(input, weight, offset, mask=None, bias=None):
    """torchvision's order: input, weight, offset, mask, bias."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    # At NaN torchvision reads outside of the input, and mmcv takes 0, as far outside.
    return to_float(input, weight, offset.nan_to_num(nan=-1e4), mask, bias)
