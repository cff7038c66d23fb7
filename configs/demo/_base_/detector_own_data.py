# What differs from detector.py on images of the user: they are larger and have more
# objects than the drawn ones, and training takes longer, since it starts from scratch.
model = dict(train_cfg=dict(rcnn=dict(sampler=dict(num=64))))

resize = dict(scale=(256, 256), keep_ratio=True)
train_dataloader = dict(dataset=dict(pipeline={'2': resize}))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline={'1': resize}))
del resize

train_cfg = dict(max_epochs=8, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=8,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
