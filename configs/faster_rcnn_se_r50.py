# Faster R-CNN with SE-ResNet-50 (Table 4), the baseline but for its backbone.
_base_ = './faster_rcnn_r50.py'

# The paper starts from an SE-ResNet-50 trained on ImageNet-1K, and so should a
# comparison. configs/imagenet/se_r50.py trains one; then
#   --cfg-options \
#       model.backbone.init_cfg.checkpoint=work_dirs/se_r50/epoch_100.pth
# As it stands it starts from torchvision's plain ResNet-50 and untrained SE.
# Unlike RA, whose gamma is 0, that changes what the ResNet-50 computes; in the
# first stage, which is frozen, for good.
model = dict(backbone=dict(type='ra_mm.RAResNet', attention=dict(type='ra_mm.SE')))
