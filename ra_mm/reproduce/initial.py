"""Gives the runs that are compared the same initial weights."""

import logging
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed

from ra_mm.fileio import atomic_write
from ra_mm.models import build_model


def write_initial_weights(cfg: Config, path: Path) -> None:
    """Write the weights of the plain model that corresponds to a run.

    Attentions draw random numbers, so that models with different attentions
    would start from different weights despite the same seed. A run that loads
    this file (``load_from``) starts as all runs with its seed; only the weights
    of its attention are its own.

    Args:
        cfg: Config of the run.
        path: The file, which is written atomically.
    """
    cfg = deepcopy(cfg)
    backbone = cfg.model.backbone
    # The weights of plain backbones have the same names in all toolboxes.
    is_resnet = 'depth' in backbone
    backbone.type = f'mmpretrain.{"ResNet" if is_resnet else "MobileNetV2"}'
    backbone.pop('attention', None)
    set_random_seed(cfg.randomness.seed)
    model = build_model(cfg)
    logging.disable(logging.INFO)  # mmengine logs a line for each weight
    try:
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    with atomic_write(path, 'wb') as file:
        torch.save(dict(state_dict=model.state_dict(), meta={}), file)
