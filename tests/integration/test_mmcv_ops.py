"""The stand-in against mmcv's compiled operators, through mmcv's own functions."""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES

import pytest
import torch

from ra_mm.mmcv_ops import operators as stand_in

spec = importlib.util.find_spec('mmcv._ext')
if spec is None or not spec.origin.endswith(tuple(EXTENSION_SUFFIXES)):
    pytest.skip('this mmcv has no compiled operators', allow_module_level=True)

from mmcv import ops  # noqa: E402

DEVICES = ['cpu']
if torch.cuda.is_available() and ops.get_compiling_cuda_version() != 'not available':
    DEVICES.append('cuda')


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def both(monkeypatch):
    """Call a function with mmcv's own operators, then with the stand-in."""

    def call(module, function, *args):
        compiled = function(*args)
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[f'mmcv.ops.{module}'], 'ext_module', stand_in)
            return compiled, function(*args)

    return call


def with_gradients(function, inputs, *args):
    """The result, and the gradients of all inputs for a fixed output gradient."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = function(*inputs, *args)
    weight = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
    y.backward(weight.to(y.dtype))
    return [y.detach(), *(x.grad for x in inputs)]


def random_boxes(n, generator, size=200.0):
    corners = torch.rand(n, 2, 2, generator=generator) * size
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def one_of(values, generator):
    return values[torch.randint(len(values), (), generator=generator)]


def assert_close(pairs, tolerance):
    for compiled, ours in zip(*pairs):
        scale = max(1.0, compiled.abs().max().item()) if compiled.numel() else 1.0
        torch.testing.assert_close(ours, compiled, rtol=0, atol=tolerance * scale)


def test_nms(both, device):
    generator = torch.Generator().manual_seed(0)
    for case in range(1000):
        n = int(torch.randint(0, 200, (), generator=generator))
        boxes = random_boxes(n, generator, one_of([10.0, 200.0], generator))
        scores = torch.rand(n, generator=generator)
        if case % 4 == 1:  # IoUs that equal the threshold, boxes of no area
            boxes = boxes.round()
        if case % 4 == 2:  # equal boxes
            boxes[: n // 2] = boxes[n // 2 :][: n // 2]
        # Equal scores, corners in the wrong order; of these mmcv's CUDA kernel
        # keeps other boxes than its CPU code.
        if case % 4 == 3 and device == 'cpu':
            scores, boxes = scores.mul(5).round(), boxes.roll(case % 3, 1)
        threshold = one_of([0.3, 0.5, 0.6, 0.7, 0.9], generator)
        boxes, scores = boxes.to(device), scores.to(device)
        (_, compiled), (_, ours) = both(
            'nms', ops.nms, boxes, scores, threshold, case % 2
        )
        assert torch.equal(compiled, ours), (case, compiled, ours)


def test_soft_nms(both):
    generator = torch.Generator().manual_seed(0)
    for case in range(150):
        n = int(torch.randint(0, 60, (), generator=generator))
        boxes = random_boxes(n, generator, 20.0)
        scores = torch.rand(n, generator=generator)
        method = ('naive', 'linear', 'gaussian')[case % 3]
        compiled, ours = both(
            'nms', ops.soft_nms, boxes, scores, 0.3, 0.5, 0.05, method, case % 2
        )
        assert torch.equal(compiled[1], ours[1])
        assert_close((compiled, ours), 1e-6)


def test_roi_align(both, device):
    generator = torch.Generator().manual_seed(0)
    for case in range(1000):
        n = int(torch.randint(0, 12, (), generator=generator))
        if device == 'cuda':  # mmcv's kernel cannot be launched for no RoIs
            n = max(n, 1)
        x = torch.randn(2, 3, 13, 17, generator=generator)
        boxes = random_boxes(n, generator, 160.0) - 10  # partly outside
        if case % 5 == 1:
            boxes[:, 2:] = boxes[:, :2]  # of no area
        rois = torch.cat([torch.randint(2, (n, 1), generator=generator), boxes], 1)
        size = one_of([(1, 1), (7, 7), (2, 5), 14], generator)
        scale = one_of([1.0, 0.25, 1 / 16], generator)
        ratio = one_of([0, 1, 2, 4], generator)

        def align(x, *args):
            return ops.roi_align(x, rois.to(x), *args)

        if case % 3 == 0:
            x = x.double()
        args = align, [x.to(device)], size, scale, ratio, 'avg', case % 2 == 0
        assert_close(both('roi_align', with_gradients, *args), 1e-5)


@pytest.mark.parametrize('modulated', [False, True])
def test_deform_conv(both, device, modulated):
    generator = torch.Generator().manual_seed(0)
    for case in range(100):
        groups, deform_groups = one_of([(1, 1), (2, 1), (1, 2), (2, 4)], generator)
        kernel = one_of([(3, 3), (1, 1), (3, 1)], generator)
        stride, padding = one_of([1, 2], generator), one_of([0, 1, (1, 0)], generator)
        dilation = one_of([1, 2], generator)
        n = one_of([1, 3], generator)
        x = torch.randn(n, 8, 9, 11, generator=generator)
        weight = torch.randn(4, 8 // groups, *kernel, generator=generator)
        size = torch.nn.functional.conv2d(
            x, weight, None, stride, padding, dilation, groups
        ).shape[2:]
        points = deform_groups * kernel[0] * kernel[1]
        offset = torch.randn(n, 2 * points, *size, generator=generator) * 2
        inputs, args = [x, offset], [stride, padding, dilation, groups, deform_groups]
        if modulated:
            inputs += [torch.rand(n, points, *size, generator=generator), weight]
            if case % 2:
                inputs.append(torch.randn(4, generator=generator))
            else:
                args.insert(0, None)
            name, function = 'modulated_deform_conv', ops.modulated_deform_conv2d
        else:
            inputs.append(weight)
            name, function = 'deform_conv', ops.deform_conv2d
        inputs = [tensor.to(device) for tensor in inputs]
        assert_close(both(name, with_gradients, function, inputs, *args), 1e-5)


@pytest.mark.parametrize('frozen', [(), (0, 1), (2,)], ids=str)
def test_deform_conv_of_frozen_tensors(both, device, frozen):
    """The gradients of v1 come in two calls, and again in a second backward pass."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(size, generator=generator).to(device)
        for size in [(2, 4, 6, 6), (2, 18, 6, 6), (4, 4, 3, 3)]
    ]

    def gradients():
        inputs = [x.clone() for x in tensors]
        trained = [x for i, x in enumerate(inputs) if i not in frozen]
        for x in trained:
            x.requires_grad_()
        y = ops.deform_conv2d(*inputs, 1, 1)
        y.backward(torch.ones_like(y), retain_graph=True)
        y.backward(torch.full_like(y, 0.5))
        return [x.grad for x in trained]

    assert_close(both('deform_conv', gradients), 1e-5)
