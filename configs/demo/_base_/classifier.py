# What `tools/reproduce.py --scale demo` changes in the classifiers of the paper's
# tables, so that they train on the drawn shapes and a CPU.

# In so few iterations, many small images teach more than a few large ones: after
# 250 iterations on the shapes, ResNet18 has a top-1 accuracy of 0.47, but with 16
# images of 64 pixels per batch only that of chance.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(pipeline={'1': dict(scale=32, crop_ratio_range=(0.5, 1.0))}),
)
val_dataloader = dict(
    num_workers=0, dataset=dict(pipeline={'1': dict(scale=32), '2': dict(crop_size=32)})
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=8e-3, weight_decay=0.05)
)
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(logger=dict(interval=5))
log_processor = dict(window_size=5)
