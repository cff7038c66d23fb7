_base_ = '../_base_/imagenet_resnet.py'

model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
