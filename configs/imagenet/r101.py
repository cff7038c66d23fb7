_base_ = '../_base_/imagenet_resnet.py'

model = dict(
    backbone=dict(depth=101), head=dict(type='ra_mm.DropoutClsHead', dropout_rate=0.2)
)
