"""A small dataset of drawn shapes for detection, segmentation and classification."""
