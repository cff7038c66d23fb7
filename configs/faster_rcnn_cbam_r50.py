# Faster R-CNN with CBAM-ResNet-50 (Table 4). Only the backbone differs from the
# baseline. On the initial weights, see faster_rcnn_se_r50.py.
_base_ = './faster_rcnn_r50.py'

model = dict(backbone=dict(type='ra_mm.RAResNet', attention=dict(type='ra_mm.CBAM')))
