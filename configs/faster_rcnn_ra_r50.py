# Faster R-CNN with RA-ResNet-50 (Table 4), the baseline but for its backbone.
_base_ = './faster_rcnn_r50.py'

# It starts from torchvision's ResNet-50 (the baseline's init_cfg): everybody
# can get these weights, and with gamma = 0 the first step computes exactly
# what the baseline computes. The paper starts from an RA-ResNet-50 trained on
# ImageNet-1K. If you have one, a single option changes over:
#   --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/ra_r50/epoch_100.pth
# A backbone of your own whose batch norm stays frozen may lose AP to
# torchvision's; if so, train it with norm_eval=False and SyncBN.
model = dict(backbone=dict(type='ra_mm.RAResNet'))

# The paper does not say what temp does in a detector. From plain ResNet
# weights gamma is 0 and temp falls anew, for a tenth of the schedule as in
# the paper's ImageNet training (10 of 100 epochs; here 1 of 12, rounded). From
# RA weights the annealing is over: the hook sees it and keeps temp at 1.
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=1)]
