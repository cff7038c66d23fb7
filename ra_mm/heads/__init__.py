from .dropout_cls_head import DropoutClsHead

__all__ = ['DropoutClsHead']
