_base_ = '../faster_rcnn_ra_r50.py'

model = dict(backbone=dict(attention=dict(type='ra_mm.SimAM')))
custom_hooks = []  # there is no temp to anneal
