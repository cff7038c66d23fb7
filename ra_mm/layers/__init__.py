"""Attentions that replace the sum of a residual block; they need PyTorch alone."""

from ra_mm.ops import bn_tail, force_path, tail

from .cbam import CBAM
from .m_grn import MGRN
from .residual_sum import ResidualSum
from .reverse_attention import ReverseAttention
from .se import SE

__all__ = [
    'CBAM',
    'MGRN',
    'ResidualSum',
    'ReverseAttention',
    'SE',
    'bn_tail',
    'force_path',
    'tail',
]
