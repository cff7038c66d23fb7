_base_ = './mobilenetv2_0.5.py'

model = dict(backbone=dict(type='ra_mm.RAMobileNetV2', attention=dict(type='ra_mm.SE')))
