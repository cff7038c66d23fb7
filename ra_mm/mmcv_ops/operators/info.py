"""What the operators were compiled with."""

import torchvision

from .common import cuda_version


def get_compiler_version() -> str:
    return f'torchvision {torchvision.__version__} (stand-in of ra_mm)'


def get_compiling_cuda_version() -> str:
    """The CUDA version of torchvision's operators, in mmcv's format."""
    if cuda_version <= 0:
        return 'not available'
    return f'{cuda_version // 1000}.{cuda_version // 10 % 100}'
