"""Operators with the names, arguments and preallocated results of mmcv's own.

They fit mmcv 2.1 to 2.3 and need torch and torchvision only. torchvision computes
nms, RoIAlign (average) and the deformable convolutions v1 and v2 on the CPU and on
CUDA; RoIPool, soft-nms, the sigmoid focal loss and multi-scale deformable attention
are written in PyTorch. Any other operator raises an error when it is called.
"""

import inspect
from collections.abc import Callable

from . import boxes, common, deformable, info, losses, roi

OPERATORS = {
    name: function
    for module in (boxes, deformable, info, losses, roi)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith('_')
}


def __getattr__(name: str) -> Callable:
    # mmcv looks all operators up when it is imported, and calls few of them.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def unavailable(*args, **kwargs):
        raise common.unavailable(name)

    return OPERATORS.get(name, unavailable)
