"""Suppression of overlapping boxes."""

import torch
from torch import Tensor

from .common import ops, to_float


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    (boxes,) = to_float(boxes)
    if boxes.dtype == torch.float32:
        # mmcv compares in float32: an IoU of 3/5 is not above 0.6.
        iou_threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv's order of equal scores: its sort is not stable, torchvision's is.
    order = scores.sort(0, descending=True)[1]
    ranks = torch.arange(len(order), 0, -1, device=boxes.device).to(boxes.dtype)
    return order[ops.nms(boxes[order], ranks, iou_threshold)]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Decay the scores; equal scores are taken in the order of the boxes."""
    boxes, scores = to_float(boxes, scores)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    rest = torch.arange(len(boxes), device=boxes.device)
    kept: list[int] = []
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
