from .reverse_attention import ReverseAttention

__all__ = ['ReverseAttention']
