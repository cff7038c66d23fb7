# The baseline of Table 4: MMDetection's own 1x schedule on COCO, 8 GPUs with
# 2 images each.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
