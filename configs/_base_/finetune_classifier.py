# MobileNetV2 from weights that exist, for `tools/reproduce.py finetune`, which puts each
# attention into it and takes the weights and the data from its command line. Another
# network: --cfg-options model.backbone.type=ResNet model.backbone.depth=50
# model.head.in_channels=2048.
_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'

# Without arguments that another network doesn't have
model = dict(backbone=dict(_delete_=True, type='MobileNetV2'))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.5, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))

max_iters = 2000
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=max_iters, val_interval=500)
# The fraction of the training in which temp falls to 1, in rows with annealing
annealing = 0.1
# Which blocks get the attention: names or skip of ra_mm.convert; all without
where = {}
optim_wrapper = dict(optimizer=dict(lr=0.005, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    # The tool makes it end with the training.
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=max_iters),
]
auto_scale_lr = dict(base_batch_size=64)

custom_hooks = [dict(type='ra_mm.ValidateFirstHook')]
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
