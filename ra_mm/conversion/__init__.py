"""Conversion of existing models: an attention replaces each residual sum.

It needs only PyTorch: libraries are recognized by the names of their classes.
"""

from .block import AttentionBlock
from .convert import convert, summarize
from .rules import IDENTITY, add_rule

__all__ = ['IDENTITY', 'AttentionBlock', 'add_rule', 'convert', 'summarize']
