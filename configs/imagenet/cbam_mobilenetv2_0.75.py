_base_ = './mobilenetv2_0.75.py'

model = dict(
    backbone=dict(type='ra_mm.RAMobileNetV2', attention=dict(type='ra_mm.CBAM'))
)
