"""The residual tail of an RA block as one operation; it needs only PyTorch."""

from .dispatch import PATHS, force_path, set_path, set_training_path
from .residual_tail import bn_tail, onnx_sum, tail

__all__ = [
    'PATHS',
    'bn_tail',
    'force_path',
    'onnx_sum',
    'set_path',
    'set_training_path',
    'tail',
]
