_base_ = './r50.py'

model = dict(backbone=dict(type='ra_mm.RAResNet', attention=dict(type='ra_mm.CBAM')))
