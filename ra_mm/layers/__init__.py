from ra_mm.ops.residual_tail import bn_tail, force_path, tail

from .cbam import CBAM
from .reverse_attention import ReverseAttention
from .se import SE

__all__ = ['CBAM', 'ReverseAttention', 'SE', 'bn_tail', 'force_path', 'tail']
