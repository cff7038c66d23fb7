# UperNet with RA-ResNet-18 on the shapes that
# `python -m ra_mm.datasets.shapes data/shapes` draws. It trains from scratch in minutes
# on a laptop's CPU.
_base_ = '../upernet_ra_r50.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        depth=18,
        deep_stem=False,
        stem_channels=32,
        base_channels=32,
        norm_cfg=norm_cfg,
        init_cfg=None,
    ),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        channels=64,
        num_classes=5,
        norm_cfg=norm_cfg,
        # Six out of seven pixels are background, but the Lovasz loss averages over the
        # classes. A class_weight would fail in mmsegmentation 1.2.2 at ignored pixels.
        loss_decode=[
            dict(type='CrossEntropyLoss'),
            dict(type='LovaszLoss', reduction='none'),
        ],
    ),
    auxiliary_head=dict(in_channels=128, channels=32, num_classes=5, norm_cfg=norm_cfg),
)

data_root = 'data/shapes'
metainfo = dict(
    classes=('background', 'circle', 'square', 'star', 'triangle'),
    palette=[
        (120, 120, 120),
        (220, 60, 60),
        (60, 140, 230),
        (240, 190, 40),
        (70, 190, 100),
    ],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=(128, 128)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128)),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
        metainfo=metainfo,
        reduce_zero_label=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='masks/val'),
        metainfo=metainfo,
        reduce_zero_label=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=1200, val_interval=600)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=100, end=1200, by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=600))
log_processor = dict(window_size=20)
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=120, by_epoch=False)]
