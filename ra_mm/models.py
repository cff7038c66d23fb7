"""Building the model of a config, outside a runner."""

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ra_mm.errors import UserError


def build_model(cfg: Config) -> nn.Module:
    """Build the untrained model of a config, on the CPU.

    SyncBN becomes BN, and the config's ``data_preprocessor`` the model's, as
    under mmengine's Runner.

    Raises:
        UserError: If the config has no model.
    """
    if cfg.get('model') is None:
        raise UserError(
            f'{cfg.filename} has no model: pass a complete config, not one of its bases'
        )
    model = cfg.model.copy()
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return revert_sync_batchnorm(MODELS.build(model))
