# What `tools/reproduce.py --scale demo` changes in the detectors of the paper's tables,
# beside the settings of ../faster_rcnn_ra_r18.py and ../mask_rcnn_ra_r18.py.
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = test_dataloader = train_dataloader

train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2))
log_processor = dict(window_size=10)
