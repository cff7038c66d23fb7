"""Build the model that a config describes, without a runner."""

from copy import deepcopy

from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ra_mm.errors import UserError, translate_errors


def build_model(cfg: Config) -> BaseModel:
    """Build the untrained model of a config, on the CPU and in training mode.

    As in mmengine's Runner, the config's ``data_preprocessor`` becomes the
    model's. SyncBN becomes BN.

    Raises:
        UserError: If the config has no model, or the model cannot be built.
    """
    if cfg.get('model') is None:
        raise UserError(
            f'{cfg.filename} has no model: pass a complete config, not one of its bases'
        )
    model = deepcopy(cfg.model)  # constructors add to their arguments
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with translate_errors(f'the model of {cfg.filename} cannot be built'):
        return revert_sync_batchnorm(MODELS.build(model))


def count_channels(model: nn.Module) -> int:
    """Return the number of channels of the images that a model takes.

    It is that of the first convolution; 3 if there is none. mmdet's ``Focus`` makes
    four times as many of them.
    """
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    count = next((layer.in_channels for layer in layers), 3)
    is_focused = any(type(m).__name__ == 'Focus' for m in model.modules())
    return count // 4 if is_focused else count
