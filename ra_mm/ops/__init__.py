"""The residual tail of an RA block as one operation, and compiled backbones."""

from .compilation import CompilationFailed, compile_if_faster
from .paths import PATHS, force_path, set_path
from .residual_tail import bn_tail, fused_sum, onnx_sum

__all__ = [
    'PATHS',
    'CompilationFailed',
    'bn_tail',
    'compile_if_faster',
    'force_path',
    'fused_sum',
    'onnx_sum',
    'set_path',
]
