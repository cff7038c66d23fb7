_base_ = './mobilenetv2_1.0.py'

model = dict(backbone=dict(type='ra_mm.RAMobileNetV2', attention=dict(type='ra_mm.SE')))
