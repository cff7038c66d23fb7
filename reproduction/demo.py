"""Demo scale: shrinks a row's config until it trains on a CPU.

Depth, heads, attention and annealing stay those of the row. The settings are in
``configs/demo``.
"""

import runpy

from mmengine.config import Config

from reproduction.paper import CONFIGS

EPOCH_DIVISOR = 10  # for the epochs on ImageNet
RESNET_WIDTH = 8  # channels of the stem and first stage, instead of 64
WIDEN_FACTOR = 1 / 4  # for the width of MobileNetV2


def shrink(cfg: Config, own_data: bool) -> None:
    """Make a row's config small, in place.

    Args:
        cfg: Config of a row.
        own_data: Whether it will train on the user's data.
    """
    hooks, full_length = cfg.get('custom_hooks', []), _length(cfg)
    if cfg.default_scope == 'mmpretrain':
        _shrink_classifier(cfg, own_data)
    else:
        _shrink_dense_model(cfg, own_data)
        cfg.custom_hooks = hooks
    for hook in hooks:  # keep the fraction of the schedule
        hook.length = max(1, hook.get('length', 10) * _length(cfg) // full_length)


def _shrink_classifier(cfg, own_data):
    _merge(cfg, '_base_/classifier')
    backbone = cfg.model.backbone
    if 'depth' in backbone:
        backbone.update(stem_channels=RESNET_WIDTH, base_channels=RESNET_WIDTH)
        cfg.model.head.in_channels //= 64 // RESNET_WIDTH
    else:
        backbone.widen_factor *= WIDEN_FACTOR
    cfg.train_cfg.max_epochs //= EPOCH_DIVISOR
    schedule = cfg.param_scheduler
    if own_data:
        _merge(cfg, '_base_/classifier_own_data')
        cfg.param_scheduler[-1].end = cfg.train_cfg.max_epochs
    elif 'milestones' in schedule:
        schedule.milestones = [m // EPOCH_DIVISOR for m in schedule.milestones]
    else:
        schedule.gamma **= EPOCH_DIVISOR


def _shrink_dense_model(cfg, own_data):
    """Shrink a detector or segmenter to the size of those in ``configs/demo``."""
    depth = cfg.model.backbone.depth
    if cfg.default_scope == 'mmseg':
        # The demo uses the plain stem, as the ImageNet configs do.
        cfg.model.pretrained = None
        if cfg.model.backbone.type == 'ResNetV1c':
            cfg.model.backbone.type = 'ResNet'
        names = ['upernet_ra_r18', '_base_/segmenter']
    else:
        has_masks = 'mask_head' in cfg.model.roi_head
        names = ['faster_rcnn_ra_r18', *['mask_rcnn_ra_r18'] * has_masks]
        names += ['_base_/detector', *['_base_/detector_own_data'] * own_data]
    for name in names:
        _merge(cfg, name)
    cfg.model.backbone.update(
        depth=depth, stem_channels=RESNET_WIDTH, base_channels=RESNET_WIDTH
    )


def _merge(cfg, name):
    """Merge the settings of a file of ``configs/demo``, without those of its base."""
    demo = runpy.run_path(str(CONFIGS / f'demo/{name}.py'))
    cfg.merge_from_dict({k: v for k, v in demo.items() if not k.startswith('_')})


def _length(cfg):
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
