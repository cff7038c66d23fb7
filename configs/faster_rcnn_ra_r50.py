# Faster R-CNN with RA-ResNet-50 (Table 4). Only the backbone differs from the baseline.
_base_ = './faster_rcnn_r50.py'

# The backbone starts from torchvision's ResNet-50 (the baseline's init_cfg). These
# weights are publicly available, and with gamma = 0 the first step computes exactly what
# the baseline computes. The first stage is frozen, so there gamma stays 0. The paper
# starts from an RA-ResNet-50 trained on ImageNet-1K; to use one, add
#   --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/ra_r50/epoch_100.pth
# If a backbone of your own, with its batch norm frozen, gives a lower AP than
# torchvision's, train the detector with norm_eval=False and SyncBN.
model = dict(backbone=dict(type='ra_mm.RAResNet'))

# The paper does not say how temp is scheduled in a detector. From plain ResNet weights,
# gamma is 0 and temp is annealed during a tenth of the schedule, as in the paper's
# ImageNet training (10 of 100 epochs; here 1 of 12, rounded). From RA weights, annealing
# is already complete: the hook detects this and keeps temp at 1.
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=1)]
