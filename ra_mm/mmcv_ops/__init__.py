"""Operators for an mmcv that was installed without its compiled ones.

``python -m ra_mm.mmcv_ops install`` puts them, on torchvision's, in the place of
mmcv's. Nothing in here depends on reverse attention.
"""

from .stand_in import install, remove, status

__all__ = ['install', 'remove', 'status']
