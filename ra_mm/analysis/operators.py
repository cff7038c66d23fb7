"""Multiply-accumulates of the operators that mmengine's FlopAnalyzer leaves out.

A trace shows the operators of PyTorch and torchvision by their names, and those of
mmcv, compiled or not, as one ``prim::PythonOp`` for each autograd function.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from unittest.mock import Mock, patch

import torch
from mmengine.analysis import jit_handles
from mmengine.analysis.jit_handles import Handle, get_shape

MMCV = 'prim::PythonOp.'


def convolution(weight: int) -> Handle:
    """Count a convolution whose filters are the given input of the operator.

    The interpolation of a deformable convolution is left out, as in most papers.
    A masked convolution counts as if the mask kept every pixel.
    """

    def count(inputs, outputs):
        return prod(get_shape(outputs[0])) * prod(get_shape(inputs[weight])[1:])

    return count


def _carafe(inputs, outputs):
    """Each pixel is a sum over a window, whose size is the first setting."""
    return prod(get_shape(outputs[0])) * outputs[0].node().scalar_args()[0] ** 2


def _average_pooling(inputs, outputs):
    """Each pixel is a sum over a window."""
    window = [size.toIValue() for size in inputs[1].node().inputs()]
    return prod(get_shape(outputs[0])) * prod(window)


def _matmul(inputs, outputs):
    """Each element of the result is a sum over the last dimension of the first input."""
    return prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]


def _einsum(inputs, outputs):
    """Without a sum, there are as many products as mmengine counts operations."""
    terms, _, result = inputs[0].toIValue().partition('->')
    has_sum = set(terms) - set(result) - set(', ')
    return jit_handles.einsum_flop_jit(inputs, outputs) * (1 if has_sum else 2)


def _attention(inputs, outputs):
    """Products of queries with keys, and of the weights with values."""
    query, key, value = map(get_shape, inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _self_attention(inputs, outputs):
    """Four projections and the two products, in one operator."""
    batch, length, channels = get_shape(inputs[0])
    return batch * length * channels * (4 * channels + 2 * length)


_each = jit_handles.elementwise_flop_counter(0, 1)
_each_input = jit_handles.elementwise_flop_counter(1, 0)
_PRODUCTS = ['mul', 'div', 'addcmul', 'addcdiv', 'lerp']
COUNTED = {
    **{f'aten::{name}': _each for name in _PRODUCTS + [f'{n}_' for n in _PRODUCTS]},
    'aten::square': _each,
    'aten::pow': _each,
    'aten::mean': _each_input,
    'aten::adaptive_avg_pool1d': _each_input,
    'aten::linalg_vector_norm': _each_input,
    'aten::matmul': _matmul,
    'aten::einsum': _einsum,
    **{f'aten::avg_pool{n}d': _average_pooling for n in (1, 2, 3)},
    'aten::upsample_bicubic2d': jit_handles.elementwise_flop_counter(0, 16),
    'aten::_convolution_mode': convolution(1),  # padding='same'
    'aten::baddbmm': lambda inputs, out: jit_handles.bmm_flop_jit(inputs[1:3], out),
    'aten::scaled_dot_product_attention': _attention,
    'aten::_native_multi_head_attention': _self_attention,
    'torchvision::deform_conv2d': convolution(1),
    f'{MMCV}DeformConv2dFunction': convolution(2),
    f'{MMCV}ModulatedDeformConv2dFunction': convolution(3),
    f'{MMCV}MaskedConv2dFunction': convolution(2),
    f'{MMCV}CARAFEFunction': _carafe,
}

# Comparisons, sums, activations and copies, beside those that mmengine lists.
_ATEN = """
    __or__ _shape_as_tensor adaptive_max_pool2d all amax amin any argmax argmin argsort
    broadcast_to channel_shuffle cummax cumsum diag diagonal dropout_ elu elu_
    embedding empty_like expand_as feature_dropout fill_ flip gelu_ glu hardsigmoid
    hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ im2col index_select
    leaky_relu leaky_relu_ lift_fresh linspace log_sigmoid log_softmax mT masked_fill_
    masked_select max_pool2d meshgrid min mish mish_ movedim new_ones numpy_T one_hot
    ones_like pad pixel_shuffle pixel_unshuffle prelu rand reflection_pad2d relu6
    relu6_ repeat repeat_interleave scatter scatter_ selu silu silu_ softmax softplus
    sort sum threshold tile topk tril triu unflatten unfold
    numel reshape_as unsafe_chunk unsafe_split view_as zero_"""
_MMCV = ('NMSop', 'SoftNMSop', 'RoIPoolFunction', 'PSAMaskFunction')
FREE = {
    *(f'aten::{name}' for name in _ATEN.split()),
    *(f'{MMCV}{name}' for name in _MMCV),
    *('torchvision::nms', 'torchvision::roi_pool'),
}


def is_free(kind: str) -> bool:
    """Tell whether an operator costs no products by the conventions used here.

    PyTorch tags the operators that work on one element at a time.
    """
    operator = getattr(torch.ops.aten, kind.removeprefix('aten::'), None)
    overloads = operator.overloads() if operator else ()
    tags = [tag for name in overloads for tag in getattr(operator, name).tags]
    return kind in FREE or torch.Tag.pointwise in tags


@contextmanager
def results_without_kernels() -> Iterator[None]:
    """Let operators of mmcv that only CUDA has return zeros of the right shape."""
    with ExitStack() as stack:
        for name in ('carafe', 'deform_roi_pool', 'masked_conv', 'psa_mask'):
            if module := sys.modules.get(f'mmcv.ops.{name}'):
                stack.enter_context(patch.object(module, 'ext_module', Mock()))
        yield
