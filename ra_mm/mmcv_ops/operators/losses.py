"""The sigmoid focal loss."""

import torch
from torch import Tensor

from .common import to_float


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    positive, p, log_p, log_not_p = _focal_terms(input, target)
    loss = torch.where(
        positive, -alpha * (1 - p) ** gamma * log_p, -(1 - alpha) * p**gamma * log_not_p
    )
    output.copy_(loss * weight[target][:, None] if len(weight) else loss)


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    positive, p, log_p, log_not_p = _focal_terms(input, target)
    grad = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p),
        -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_not_p - p),
    )
    grad_input.copy_(grad * weight[target][:, None] if len(weight) else grad)


def _focal_terms(input, target):
    (input,) = to_float(input)
    p = input.sigmoid()
    tiny = torch.finfo(torch.float32).tiny
    classes = torch.arange(input.shape[1], device=input.device)
    # The target of the background is the number of classes.
    positive = target[:, None] == classes
    return positive, p, p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log()
