"""What the stand-in for mmcv's operators computes."""

import math

import numpy as np
import pytest
import torch

from ra_mm.mmcv_ops import operators

SIZES = dict(
    aligned_height=2, aligned_width=2, spatial_scale=0.5, sampling_ratio=0, aligned=True
)


def test_other_operators_raise_when_they_are_called():
    with pytest.raises(NotImplementedError, match='have carafe_forward.*--no-build'):
        operators.carafe_forward(1, 2, scale=3)


def test_roi_align_of_maxima_raises():
    x, rois, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), torch.zeros(1, 1, 2, 2)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        operators.roi_align_forward(x, rois, y, y, y, pool_mode=0, **SIZES)


def test_nms_compares_in_float32():
    boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])  # an IoU of 0.6
    scores = torch.tensor([0.5, 0.9])
    assert operators.nms(boxes, scores, 0.6, 0).tolist() == [1, 0]
    assert operators.nms(boxes, scores, 0.5999, 0).tolist() == [1]
    # As pixels, both included: an IoU of 4/6 x 2/2.
    assert operators.nms(boxes, scores, 0.66, 1).tolist() == [1]
    assert operators.nms(boxes, scores, 0.67, 1).tolist() == [1, 0]


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_every_float_type(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 9, dtype=dtype)
    rois = torch.tensor([[0, 1, 2, 9, 8], [1, 0, 0, 16, 16]], dtype=dtype)
    y, empty = x.new_zeros(2, 4, 2, 2), x.new_zeros(0)
    operators.roi_align_forward(x, rois, y, empty, empty, pool_mode=1, **SIZES)
    expected = torch.ops.torchvision.roi_align(
        x.float(), rois.float(), 0.5, 2, 2, 0, True
    )
    torch.testing.assert_close(y, expected.to(dtype))
    grad = torch.zeros_like(x)
    operators.roi_align_backward(y, rois, empty, empty, grad, pool_mode=1, **SIZES)
    assert grad.dtype == dtype and grad.abs().sum() > 0
    boxes, scores = rois[:, 1:], rois[:, 3]
    assert operators.nms(boxes, scores, 0.5, 0).tolist() == [1, 0]


def test_roi_align_of_channels_last():
    x, rois = torch.randn(1, 4, 9, 9), torch.tensor([[0, 1.0, 2, 9, 8]])
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        y, empty = x.new_zeros(1, 4, 2, 2), x.new_zeros(0)
        inputs = (x.to(memory_format=form), rois, y, empty, empty)
        operators.roi_align_forward(*inputs, pool_mode=1, **SIZES)
        results.append(y)
    assert torch.equal(*results)


def naive_roi_pool(x, roi, size, scale):
    """mmcv's definition, one pixel after another: values and pixel numbers."""
    image, (x1, y1) = int(roi[0]), (float(v) * scale for v in roi[1:3])
    x2, y2 = ((float(v) + 1) * scale for v in roi[3:])
    values, pixels = x.new_zeros(x.shape[1], size, size), {}
    step = [(y2 - y1) / size, (x2 - x1) / size]
    for c, i, j in np.ndindex(values.shape):
        best, pixel = -math.inf, -1
        for v, u in np.ndindex(x.shape[2:]):
            inside = (
                x2 > x1
                and y2 > y1
                and math.floor(i * step[0] + y1) <= v
                and v < math.ceil((i + 1) * step[0] + y1)
                and math.floor(j * step[1] + x1) <= u
                and u < math.ceil((j + 1) * step[1] + x1)
            )
            if inside and x[image, c, v, u] > best:
                best, pixel = float(x[image, c, v, u]), v * x.shape[3] + u
        values[c, i, j] = best if pixel >= 0 else 0
        pixels[c, i, j] = pixel
    return values, pixels


def test_roi_pool():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 7).relu()  # with equal pixels
    rois = torch.tensor(
        [
            [0, 1, 2, 20, 17],
            [1, 5.3, 2.6, 9.1, 30],  # partly outside
            [1, -9, -9, -5, -5],  # outside
            [0, 9, 9, 3, 3],  # corners in the wrong order
        ]
    )
    sizes = dict(pooled_height=3, pooled_width=3, spatial_scale=0.25)
    y, argmax = x.new_zeros(4, 2, 3, 3), torch.zeros(4, 2, 3, 3, dtype=torch.int)
    operators.roi_pool_forward(x, rois, y, argmax, **sizes)
    grad_output, grad = torch.rand_like(y), torch.zeros_like(x)
    operators.roi_pool_backward(grad_output, rois, argmax, grad, **sizes)

    expected = torch.zeros_like(x)
    for k, roi in enumerate(rois):
        values, pixels = naive_roi_pool(x, roi, 3, 0.25)
        assert torch.equal(y[k], values)
        for (c, i, j), pixel in pixels.items():
            assert argmax[k, c, i, j] == pixel
            if pixel >= 0:
                expected[int(roi[0]), c].view(-1)[pixel] += grad_output[k, c, i, j]
    torch.testing.assert_close(grad, expected)


def test_sigmoid_focal_loss_and_its_gradient():
    torch.manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, 0, 1])  # 3 is the background
    p = x.sigmoid()
    positive = torch.eye(4, dtype=torch.bool)[target][:, :3]
    expected = torch.where(
        positive, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    )
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    loss, grad = torch.empty_like(x), torch.empty_like(x)
    for function, result in (('forward', loss), ('backward', grad)):
        function = getattr(operators, f'sigmoid_focal_loss_{function}')
        function(x.detach(), target, x.new_empty(0), result, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('value', [-200.0, 200.0])
def test_the_focal_loss_of_extreme_logits_is_finite(value):
    x, result = torch.full((2, 1), value), torch.empty(2, 1)
    target = torch.tensor([0, 1])
    for function in ('forward', 'backward'):
        function = getattr(operators, f'sigmoid_focal_loss_{function}')
        function(x, target, x.new_empty(0), result, gamma=2.0, alpha=0.25)
        assert result.isfinite().all()


def test_larger_offsets_are_read_from_the_first_values():
    """DyHead passes offsets of a larger level; checked one pixel after another."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 1, 1)
    offset, mask = torch.randint(-2, 3, (1, 2, 5, 6)).float(), torch.rand(1, 1, 5, 6)
    sizes = dict.fromkeys('kernel_h kernel_w stride_h stride_w group'.split(), 1)
    sizes |= dict.fromkeys('dilation_h dilation_w deformable_group'.split(), 1)
    sizes |= dict(pad_h=0, pad_w=0, with_bias=False)
    empty, y = x.new_empty(0), torch.empty(1, 1, 4, 4)
    operators.modulated_deform_conv_forward(
        x, weight, empty, empty, offset, mask, y, empty, **sizes
    )
    grads = [torch.zeros_like(t) for t in (x, weight, empty, offset, mask)]
    operators.modulated_deform_conv_backward(
        *(x, weight, empty, empty, offset, mask, empty),
        *(*grads, torch.ones_like(y)),
        **sizes,
    )
    offsets, masks = offset.flatten().tolist(), mask.flatten()
    for pixel in range(16):
        row, column = divmod(pixel, 4)
        row += int(offsets[pixel])  # all rows come before all columns
        column += int(offsets[16 + pixel])
        inside = 0 <= row < 4 and 0 <= column < 4
        value = x[0, 0, row, column] if inside else torch.tensor(0.0)
        expected = masks[pixel] * value * weight[0, 0, 0, 0]
        torch.testing.assert_close(y[0, 0].flatten()[pixel], expected)
        grad = grads[4].flatten()[pixel]
        torch.testing.assert_close(grad, value * weight[0, 0, 0, 0])
    assert not grads[4].flatten()[16:].any() and not grads[3].flatten()[32:].any()


def test_deformable_attention_on_the_function_for_gpus():
    """mmcv calls its operator on CUDA; on a CPU it calls its version in PyTorch."""
    attention = pytest.importorskip('mmcv.ops.multi_scale_deform_attn')
    torch.manual_seed(0)
    shapes = torch.tensor([[4, 3], [2, 2]])
    inputs = [
        torch.rand(size, dtype=torch.float64, requires_grad=True)
        for size in [(2, 16, 2, 4), (2, 5, 2, 2, 3, 2), (2, 5, 2, 2, 3)]
    ]
    y = attention.multi_scale_deformable_attn_pytorch(inputs[0], shapes, *inputs[1:])
    grad_output = torch.rand_like(y)
    expected = torch.autograd.grad(y, inputs, grad_output)
    arguments = [inputs[0].detach(), shapes, torch.tensor([0, 12])]
    arguments += [tensor.detach() for tensor in inputs[1:]]
    ours = operators.ms_deform_attn_forward(*arguments, im2col_step=64)
    torch.testing.assert_close(ours, y)
    grads = [torch.zeros_like(tensor) for tensor in inputs]
    operators.ms_deform_attn_backward(*arguments, grad_output, *grads, im2col_step=64)
    torch.testing.assert_close(grads, list(expected))


def test_deterministic_mode_is_suspended_for_a_gradient(monkeypatch):
    """torchvision's CUDA kernel refuses this mode, in which mmcv's own train."""
    modes = []

    def backward(*args):
        modes.append(torch.is_deterministic_algorithms_warn_only_enabled())
        return torch.zeros(1)

    monkeypatch.setattr(operators.common.ops, '_roi_align_backward', backward)
    x, rois = torch.zeros(1), torch.zeros(1, 5)
    torch.use_deterministic_algorithms(True)
    try:
        operators.roi_align_backward(x, rois, x, x, x, pool_mode=1, **SIZES)
        assert modes == [True]
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
