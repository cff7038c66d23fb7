"""The residual tail of an RA block as one operation, in plain PyTorch."""

from .compilation import CompilationFailed, retry_compilation
from .paths import PATHS, force_path, get_path, set_path, set_training_path
from .residual_tail import bn_tail, fused_sum, onnx_sum

__all__ = [
    'PATHS',
    'CompilationFailed',
    'bn_tail',
    'force_path',
    'fused_sum',
    'get_path',
    'onnx_sum',
    'retry_compilation',
    'set_path',
    'set_training_path',
]
