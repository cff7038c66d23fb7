# Mask R-CNN with SE-ResNet-50 (Tables 4 and 5). Only the backbone differs from the
# baseline. On the initial weights, see faster_rcnn_se_r50.py.
_base_ = './mask_rcnn_r50.py'

model = dict(backbone=dict(type='ra_mm.RAResNet', attention=dict(type='ra_mm.SE')))
