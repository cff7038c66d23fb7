# Mask R-CNN with RA-ResNet-50 (Tables 4 and 5). Only the backbone differs from the
# baseline. On the initial weights and temp, see faster_rcnn_ra_r50.py.
_base_ = './mask_rcnn_r50.py'

model = dict(backbone=dict(type='ra_mm.RAResNet'))
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=1)]
