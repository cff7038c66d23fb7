# The baseline of Table 4: MMDetection's own 1x schedule on COCO, 8 GPUs with 2 images
# each. To start from a ResNet-50 of configs/imagenet/ instead, as in the paper, also
# give the prefix of the backbone's keys in that checkpoint:
#   --cfg-options model.backbone.init_cfg.prefix=backbone. \
#       model.backbone.init_cfg.checkpoint=work_dirs/r50/epoch_100.pth
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
