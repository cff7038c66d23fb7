# The small detector of the demo on real images: BCCD, as in
# ../faster_rcnn_ra_r50_bccd.py. It trains from scratch on a CPU. For the plain
# baseline, add
#   --cfg-options model.backbone.type=mmpretrain.ResNet custom_hooks=[]
_base_ = './faster_rcnn_ra_r18.py'

data_root = '{{$DATA_ROOT:data/bccd}}/'
metainfo = dict(_delete_=True, classes=('RBC', 'WBC', 'Platelets'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240)),
    dict(
        type='RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=3)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
)
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img='images/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
