"""Reverse attention (RA-Net) for the OpenMMLab toolboxes."""

__version__ = '0.1.0'
