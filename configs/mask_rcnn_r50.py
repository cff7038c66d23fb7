# The baseline of Tables 4 and 5: MMDetection's own 1x schedule on COCO, 8 GPUs with 2
# images each. On other initial weights, see faster_rcnn_r50.py.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
