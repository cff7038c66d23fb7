_base_ = '../_base_/imagenet_mobilenetv2.py'

model = dict(backbone=dict(widen_factor=0.5))
