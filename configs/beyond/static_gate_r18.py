_base_ = '../imagenet/ra_r18.py'

model = dict(backbone=dict(attention=dict(type='ra_mm.StaticGate')))
