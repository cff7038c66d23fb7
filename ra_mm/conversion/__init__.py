"""Conversion of existing models: an attention replaces each residual sum.

It needs only PyTorch: libraries are recognized by the names of their classes.
"""

from . import rules_openmmlab, rules_timm, rules_torchvision  # noqa: F401
from .block import AttentionBlock
from .convert import convert, summarize
from .rules import IDENTITY, add_chain, add_rule

__all__ = [
    'IDENTITY',
    'AttentionBlock',
    'add_chain',
    'add_rule',
    'convert',
    'summarize',
]
