"""torchvision's nms and roi_align beside mmcv's: results, gradients, speed.

Where mmcv has no compiled operators, torchvision's can stand in for them.
This measures what that changes at the sizes of a detector.
"""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torchvision import ops

from benchmarks.exactness import relative_error
from benchmarks.measuring import quartiles, seconds

IOU_THRESHOLD = 0.7


def operator_errors(device: str, tiny: bool = False, rounds: int = 7) -> Iterator[dict]:
    """Compare both libraries on the device with torchvision on the CPU.

    Args:
        device (str): 'cpu' or 'cuda'.
        tiny (bool): Use small inputs, for a trial. Defaults to False.
        rounds (int): How often to time each operator. Defaults to 7.

    Yields:
        dict: ``operator``, ``library`` ('torchvision' or 'mmcv'), ``device``,
        the sizes, ``ms`` (the quartiles of one call, for roi_align forward
        and backward), and the deviation from the CPU's float64 result:
        ``different`` (boxes that only one of the two keeps) and ``same_order``
        for nms, ``errors`` of values and gradient for roi_align. Or ``library``
        and ``skipped``, the reason: mmcv's operators cannot be imported or are
        the stand-in, or an operator does not run on the device.
    """
    libraries = dict(torchvision=(_torchvision_nms, _torchvision_roi_align))
    try:
        from mmcv.ops import nms, roi_align
    except (ImportError, OSError) as e:
        yield dict(library='mmcv', skipped=f'mmcv.ops: {type(e).__name__}: {e}')
    else:
        if find_spec('mmcv._ext').origin.endswith('.py'):
            yield dict(library='mmcv', skipped='the stand-in, which is torchvision')
        else:
            libraries['mmcv'] = (
                lambda boxes, scores: nms(boxes, scores, IOU_THRESHOLD)[1],
                lambda features, rois: roi_align(
                    features, rois, 7, 0.25, 0, 'avg', True
                ),
            )
    for count in (100,) if tiny else (1000, 8000):
        yield from _compare_nms(libraries, device, count, rounds)
    shape, count = ((1, 4, 20, 32), 16) if tiny else ((2, 256, 200, 336), 1024)
    yield from _compare_roi_align(libraries, device, shape, count, rounds)


def _torchvision_nms(boxes, scores):
    return ops.nms(boxes, scores, IOU_THRESHOLD)


def _torchvision_roi_align(features, rois):
    return ops.roi_align(features, rois, 7, 0.25, -1, True)


def _compare_nms(libraries, device, count, rounds):
    boxes = _random_boxes(count, 800, 1344, largest=0.3)
    g = torch.Generator().manual_seed(1)
    scores = torch.randperm(count, generator=g).float() / count  # no ties
    exact = _torchvision_nms(boxes.double(), scores.double())
    boxes, scores = boxes.to(device), scores.to(device)
    for library, (nms, _) in libraries.items():
        try:
            kept = nms(boxes, scores).cpu()
        except RuntimeError as e:
            yield _skipped(library, 'nms', e)
            continue
        yield dict(
            operator='nms',
            library=library,
            device=device,
            boxes=count,
            iou_threshold=IOU_THRESHOLD,
            kept=len(kept),
            different=len(set(kept.tolist()) ^ set(exact.tolist())),
            same_order=torch.equal(kept, exact),
            ms=_milliseconds(partial(nms, boxes, scores), rounds),
        )


def _compare_roi_align(libraries, device, shape, count, rounds):
    g = torch.Generator().manual_seed(0)
    N, C, H, W = shape
    features = torch.randn(shape, generator=g)
    images = torch.randint(N, (count, 1), generator=g)
    rois = torch.cat([images, _random_boxes(count, 4 * H, 4 * W, largest=0.1)], dim=1)
    dy = torch.randn(count, C, 7, 7, generator=g)

    def values_and_gradient(roi_align, features, rois, dy):
        features = features.detach().requires_grad_()
        y = roi_align(features, rois)
        return y, *torch.autograd.grad(y, features, dy)

    inputs = features, rois, dy
    exact = values_and_gradient(_torchvision_roi_align, *(t.double() for t in inputs))
    exact = [t.detach().to(device) for t in exact]
    inputs = [t.to(device) for t in inputs]
    for library, (_, roi_align) in libraries.items():
        try:
            found = values_and_gradient(roi_align, *inputs)
        except RuntimeError as e:
            yield _skipped(library, 'roi_align', e)
            continue
        errors = map(relative_error, found, exact)
        yield dict(
            operator='roi_align',
            library=library,
            device=device,
            features=list(shape),
            rois=count,
            errors=dict(zip(['y', 'dfeatures'], errors)),
            ms=_milliseconds(partial(values_and_gradient, roi_align, *inputs), rounds),
        )


def _skipped(library, operator, e):
    reason = str(e).strip().partition('\n')[0]
    return dict(library=library, skipped=f'{operator}: {type(e).__name__}: {reason}')


def _random_boxes(count: int, height: int, width: int, largest: float) -> Tensor:
    """Make boxes around a few objects, so that many overlap."""
    g = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height])
    objects = torch.rand(20, 4, generator=g)[torch.arange(count) % 20]
    jitter = 0.02 * torch.randn(count, 4, generator=g)
    sides = (largest * (0.2 + 0.8 * objects[:, 2:]) + jitter[:, 2:].abs()) * size
    start = ((0.7 * objects[:, :2] + jitter[:, :2]) * size).clamp(min=0)
    return torch.cat([start, start + sides], dim=1)


def _milliseconds(call, rounds):
    seconds(call, 3)
    return [1e3 * q for q in quartiles([seconds(call, 5) for _ in range(rounds)])]
