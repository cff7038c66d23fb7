# What differs from classifier.py on images of the user, which may need more pixels.
train_dataloader = dict(batch_size=32, dataset=dict(pipeline={'1': dict(scale=64)}))
val_dataloader = dict(
    dataset=dict(pipeline={'1': dict(scale=64), '2': dict(crop_size=64)})
)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=32)
# With a few epochs better than the paper's steps. It ends with the training.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', begin=0, by_epoch=True, convert_to_iter_based=True),
]
