from .cbam import CBAM
from .reverse_attention import ReverseAttention
from .se import SE

__all__ = ['CBAM', 'ReverseAttention', 'SE']
