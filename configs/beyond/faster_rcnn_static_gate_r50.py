_base_ = '../faster_rcnn_ra_r50.py'

model = dict(backbone=dict(attention=dict(type='ra_mm.StaticGate')))
