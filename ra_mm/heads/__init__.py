"""The classification head of the paper's Table 1."""

from .dropout_cls_head import DropoutClsHead

__all__ = ['DropoutClsHead']
