# What `tools/reproduce.py --scale demo` changes in the segmenters of the paper's tables,
# beside the settings of ../upernet_ra_r18.py.
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = test_dataloader = train_dataloader

train_cfg = dict(max_iters=200, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=200, by_epoch=False),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=100, max_keep_ckpts=2)
)
log_processor = dict(window_size=10)
