# UperNet with RA-ResNet-50 (Table 5). Only the backbone differs from the baseline.
_base_ = './upernet_r50.py'

# The backbone starts from the baseline's ResNet-50 with the deep stem, so the first step
# computes what the baseline computes. The paper starts from an RA-ResNet-50 trained on
# ImageNet-1K, which has the plain stem; to use one, add
#   --cfg-options model.backbone.deep_stem=False \
#       model.backbone.init_cfg.checkpoint=work_dirs/ra_r50/epoch_100.pth
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='ra_mm.RAResNet',
        depth=50,
        deep_stem=True,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet50_v1c'),
    ),
)

# temp is annealed during a tenth of the schedule, see faster_rcnn_ra_r50.py.
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=8000, by_epoch=False)]
