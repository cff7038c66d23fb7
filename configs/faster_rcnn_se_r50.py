# Faster R-CNN with SE-ResNet-50 (Table 4). Only the backbone differs from the baseline.
_base_ = './faster_rcnn_r50.py'

# The paper starts from an SE-ResNet-50 trained on ImageNet-1K, and a fair comparison
# should too. configs/imagenet/se_r50.py trains one; then add
#   --cfg-options \
#       model.backbone.init_cfg.checkpoint=work_dirs/se_r50/epoch_100.pth
# By default, this config starts from torchvision's plain ResNet-50 with untrained SE
# modules. Unlike RA, where gamma = 0, these change what the ResNet-50 computes, and in
# the first stage, which is frozen, they stay untrained.
model = dict(backbone=dict(type='ra_mm.RAResNet', attention=dict(type='ra_mm.SE')))
