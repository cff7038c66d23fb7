"""The rows of the tables finetune and finetune_detection, and the weights they load.

Each of these tables has one config, of a plain network; its rows are variants of it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor

from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import find_prefix, load_strict, strip_prefix
from ra_mm.errors import UserError

TABLES = ('finetune', 'finetune_detection')
# The attention of each variant in configs/beyond.yml
ATTENTION_OF = {
    'plain': None,
    'se': 'ra_mm.SE',
    'se_from_zero': 'ra_mm.ZeroScaledSE',
    'cbam': 'ra_mm.CBAM',
    'eca': 'ra_mm.ECA',
    'simam': 'ra_mm.SimAM',
    'grn': 'ra_mm.GRN',
    'static_gate': 'ra_mm.StaticGate',
    'gated_residual': 'ra_mm.GatedResidual',
    'ra_no_annealing': 'ra_mm.ReverseAttention',
    'ra': 'ra_mm.ReverseAttention',
    'head_alone': None,
    'gates_alone': 'ra_mm.ReverseAttention',
}
ANNEALED = ('static_gate', 'gated_residual', 'ra', 'gates_alone')
# All weights of the backbone but those of its attentions
FROZEN = {
    'backbone': dict(lr_mult=0.0, decay_mult=0.0),
    '.attention.': dict(lr_mult=1.0, decay_mult=1.0),
}


def identify(path: Path) -> str:
    """Return the name and the SHA-256 of a file of weights.

    Raises:
        UserError: If there is no such file.
    """
    try:
        return f'{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}'
    except OSError as e:
        raise UserError(f'--weights {path}: {e.strerror}') from e


def make_variant(cfg: Config, variant: str) -> None:
    """Turn the config of a plain network into that of a variant, in place.

    The annealing, the schedule and the checkpoints follow the length of the training.
    """
    backbone, loop = cfg.model.backbone, cfg.train_cfg
    if variant.endswith('_alone'):
        backbone.norm_eval = True
        cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=FROZEN)
    if attention := ATTENTION_OF[variant]:
        options = dict(backbone=backbone, attention=dict(type=attention), **cfg.where)
        cfg.model.backbone = dict(type='ra_mm.Converted', **options)
    length = round(cfg.annealing * loop.max_iters)
    if variant in ANNEALED and length:
        hook = dict(type='ra_mm.TempAnnealingHook', length=length, by_epoch=False)
        cfg.custom_hooks = [*cfg.custom_hooks, hook]
    cfg.param_scheduler[-1].end = loop.max_iters
    cfg.default_hooks.checkpoint.interval = loop.val_interval


def load_trained(model: BaseModel, path: Path) -> None:
    """Load weights that exist into a plain model, strictly.

    Args:
        model: Its neck and head are loaded too, where the file has them.
        path: Weights of the whole model, or of its backbone: with a prefix or without,
            or as another library names them, in the same order.

    Raises:
        UserError: If a weight of the backbone is missing or has another shape.
    """
    weights = read_state_dict(str(path))
    own = model.backbone.state_dict()
    prefix = find_prefix(own.keys(), weights)
    if prefix != 'backbone.':
        found = strip_prefix(weights, prefix)
        if own.keys().isdisjoint(found):
            found = rename_in_order(own, found)
        weights = {f'backbone.{key}': found[key] for key in own.keys() & found.keys()}
    try:
        load_strict(model, weights, 'backbone')
    except UserError as e:
        raise UserError(f'--weights {path}: {e}') from e


def rename_in_order(
    own: Mapping[str, Tensor], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Give weights the names of a backbone, if they are the same in the same order.

    Args:
        own: The weights of the backbone.
        weights: Those of a checkpoint; what follows those of the backbone is a head.

    Returns:
        By the names in ``own``; empty if the order does not fit.
    """
    names = [
        [key for key in state if not key.endswith('num_batches_tracked')]
        for state in (own, weights)
    ]
    pairs = [*zip(*names)]
    fits = len(pairs) == len(names[0]) and all(
        own[a].shape == weights[b].shape and a.split('.')[-1] == b.split('.')[-1]
        for a, b in pairs
    )
    return {a: weights[b] for a, b in pairs} if fits else {}
