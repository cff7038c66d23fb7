# Faster R-CNN with CBAM-ResNet-50 (Table 4), the baseline but for its
# backbone. Its start: as in faster_rcnn_se_r50.py.
_base_ = './faster_rcnn_r50.py'

model = dict(backbone=dict(type='ra_mm.RAResNet', attention=dict(type='ra_mm.CBAM')))
