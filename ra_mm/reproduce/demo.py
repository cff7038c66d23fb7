"""Demo scale: shrinks a row's config until it trains on a CPU.

Depth, heads, attention and annealing stay those of the row.
"""

import runpy
from copy import deepcopy

from mmengine.config import Config

from ra_mm.reproduce.paper import CONFIGS

EPOCH_DIVISOR = 10  # for the epochs on ImageNet
RESNET_WIDTH = 8  # channels of the stem and first stage, instead of 64
WIDEN_FACTOR = 1 / 4  # for the width of MobileNetV2


def _dataloaders(train=None, val=None, **both):
    val = dict(both, **(val or {}))
    return dict(
        train_dataloader=dict(both, **(train or {})),
        val_dataloader=val,
        test_dataloader=val,
    )


# Settings merged over a row's config, for classifiers:
def _classifier(side, batch_size, lr):
    return dict(
        **_dataloaders(
            num_workers=0,
            train=dict(
                batch_size=batch_size,
                dataset=dict(
                    pipeline={'1': dict(scale=side, crop_ratio_range=(0.5, 1.0))}
                ),
            ),
            val=dict(
                dataset=dict(
                    pipeline={'1': dict(scale=side), '2': dict(crop_size=side)}
                )
            ),
        ),
        optim_wrapper=dict(
            optimizer=dict(_delete_=True, type='AdamW', lr=lr, weight_decay=0.05)
        ),
        auto_scale_lr=dict(base_batch_size=batch_size),
        default_hooks=dict(logger=dict(interval=5)),
        log_processor=dict(window_size=5),
    )


# In so few iterations, many small images teach more than a few large ones: after
# 250 iterations on the shapes, ResNet18 has a top-1 accuracy of 0.47, but with 16
# images of 64 pixels per batch only that of chance. The user's images may need more
# pixels.
CLASSIFIER = _classifier(side=32, batch_size=64, lr=8e-3)
OWN_DATA_CLASSIFIER = _classifier(side=64, batch_size=32, lr=4e-3)


def _cosine(epochs, warmup):
    """A cosine over all epochs, after ``warmup`` iterations."""
    return [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=warmup),
        dict(
            type='CosineAnnealingLR',
            begin=0,
            end=epochs,
            by_epoch=True,
            convert_to_iter_based=True,
        ),
    ]


def _detector(epochs, warmup, **settings):
    return dict(
        train_cfg=dict(max_epochs=epochs, val_interval=(epochs + 3) // 4),
        param_scheduler=_cosine(epochs, warmup),
        default_hooks=dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=2)),
        log_processor=dict(window_size=10),
        **settings,
    )


# For detectors, over the settings of configs/demo/:
DETECTOR = _detector(2, 50, **_dataloaders(num_workers=0, persistent_workers=False))
# The user's images are larger and have more objects than the drawn ones, and
# training takes longer, since it starts from scratch.
RESIZE = dict(scale=(256, 256), keep_ratio=True)
OWN_DATA_DETECTOR = _detector(
    8,
    100,
    model=dict(train_cfg=dict(rcnn=dict(sampler=dict(num=64)))),
    **_dataloaders(
        num_workers=0,
        persistent_workers=False,
        train=dict(dataset=dict(pipeline={'2': RESIZE})),
        val=dict(dataset=dict(pipeline={'1': RESIZE})),
    ),
)
# For segmenters, over the settings of configs/demo/:
SEGMENTER = dict(
    train_cfg=dict(max_iters=200, val_interval=100),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=200, by_epoch=False),
    ],
    default_hooks=dict(
        logger=dict(interval=10), checkpoint=dict(interval=100, max_keep_ckpts=2)
    ),
    log_processor=dict(window_size=10),
    **_dataloaders(num_workers=0, persistent_workers=False),
)


def shrink(cfg: Config, own_data: bool) -> None:
    """Make a row's config small, in place.

    Args:
        cfg: Config of a row.
        own_data: Whether it will train on the user's data.
    """
    hooks = cfg.get('custom_hooks', [])
    full_length = _length(cfg)
    backbone = cfg.model.backbone
    if 'depth' in backbone:
        depth = backbone.depth
        widths = dict(stem_channels=RESNET_WIDTH, base_channels=RESNET_WIDTH)
    if cfg.default_scope == 'mmpretrain':
        if 'depth' in backbone:
            backbone.update(widths)
            cfg.model.head.in_channels //= 64 // RESNET_WIDTH
        else:
            backbone.widen_factor *= WIDEN_FACTOR
        _merge(cfg, OWN_DATA_CLASSIFIER if own_data else CLASSIFIER)
        cfg.train_cfg.max_epochs //= EPOCH_DIVISOR
        schedule = cfg.param_scheduler
        if own_data:  # with a few epochs better than the paper's steps
            cfg.param_scheduler = _cosine(cfg.train_cfg.max_epochs, 100)
        elif 'milestones' in schedule:
            schedule.milestones = [m // EPOCH_DIVISOR for m in schedule.milestones]
        else:
            schedule.gamma **= EPOCH_DIVISOR
    else:
        if cfg.default_scope == 'mmseg':
            # The demo uses the plain stem, as the ImageNet configs do.
            cfg.model.pretrained = None
            if backbone.type == 'ResNetV1c':
                backbone.type = 'ResNet'
            demos, overlay = ['upernet'], SEGMENTER
        else:
            demos = ['faster_rcnn']
            overlay = OWN_DATA_DETECTOR if own_data else DETECTOR
            if 'mask_head' in cfg.model.roi_head:
                demos.append('mask_rcnn')
        # Only the settings of the demo files themselves, not of their bases.
        for name in demos:
            demo = runpy.run_path(str(CONFIGS / f'demo/{name}_ra_r18.py'))
            _merge(cfg, {k: v for k, v in demo.items() if not k.startswith('_')})
        _merge(cfg, overlay)
        cfg.model.backbone.update(depth=depth, **widths)
        cfg.custom_hooks = hooks
    for hook in hooks:  # keep the fraction of the schedule
        hook.length = max(1, hook.get('length', 10) * _length(cfg) // full_length)


def _merge(cfg, settings):
    cfg.merge_from_dict(deepcopy(settings))  # merging removes _delete_


def _length(cfg):
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
