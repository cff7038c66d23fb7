"""Checks of the checkpoints that a config loads, and their download."""

from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import MODELS

from ra_mm.engine.checkpoint_io import get_weights, read_checkpoint
from ra_mm.engine.config import get_type, get_value, iter_dicts
from ra_mm.engine.strict_load import (
    find_prefix,
    format_mismatch,
    load_weights,
    strip_prefix,
)
from ra_mm.errors import UserError

# The backbones that RA backbones replace.
PLAIN = ('ResNet', 'ResNetV1c', 'ResNetV1d', 'ResNeXt', 'MobileNetV2')
RESUMABLE = {'meta', 'message_hub', 'optimizer'}
# Where a config names the weights of a backbone, the older ways last.
BACKBONE_KEYS = (
    'model.backbone.init_cfg.checkpoint',
    'model.backbone.pretrained',
    'model.pretrained',
)


def check_checkpoints(
    cfg: Config, mode: str, resume: str | None, remote: bool
) -> Iterator[str]:
    """Read the checkpoints that a run would load.

    Args:
        cfg (Config): The complete config.
        mode (str): 'train' or 'test'.
        resume (str, optional): The value of ``--resume``, see :func:`.check`.
        remote (bool): Whether to read those with a URL, which downloads them to
            mmengine's cache, or the others.

    Yields:
        str: One problem each.
    """
    if resume == 'auto' and not cfg.get('load_from'):
        yield (
            f'--resume: {cfg.work_dir} has no checkpoint; train without --resume, or '
            'name the checkpoint (--resume FILE) or its folder (--work-dir DIR)'
        )
    for key, path in _iter_checkpoints(cfg, mode):
        if ('://' in path) == remote:
            try:
                _check_checkpoint(cfg, key, path)
            except (UserError, OSError) as e:
                yield f'{_name_source(key, mode, resume)}{e}'


def _name_source(key, mode, resume):
    """Name the option or the key that a checkpoint comes from."""
    if key == 'load_from' and mode == 'test':
        return ''  # the argument of the tool
    return '--resume: ' if key == 'load_from' and resume else f'{key}: '


def _iter_checkpoints(cfg, mode):
    """Yield each dotted path in the config with the file or URL that it names."""
    if cfg.get('load_from'):
        yield 'load_from', cfg.load_from
    if mode == 'train':  # a test does not initialize weights
        for key, node in iter_dicts(cfg.model, 'model'):
            is_init = get_type(node) in ('Pretrained', 'PretrainedInit')
            name = 'checkpoint' if is_init else 'pretrained'
            if isinstance(node.get(name), str):
                yield f'{key}.{name}', node[name]


def _check_checkpoint(cfg, key, path):
    checkpoint = read_checkpoint(path)
    if key == 'load_from':
        get_weights(checkpoint, path)
        if cfg.get('resume') and not RESUMABLE <= checkpoint.keys():
            raise UserError(
                f'{path} has only weights and cannot be resumed from; to start from '
                f'them, leave out --resume and pass --cfg-options load_from={path}'
            )
    elif key in BACKBONE_KEYS:
        _check_plain_backbone(cfg, checkpoint, path)


def _check_plain_backbone(cfg, checkpoint, path):
    """Check that all weights are found, where mmengine only warns.

    The RA backbones check this themselves.
    """
    node = get_value(cfg, 'model.backbone', {})
    has_own_weights = any(node.get(part) for part in ('dcn', 'plugins', 'conv_cfg'))
    if get_type(node) not in PLAIN or has_own_weights:
        return
    weights = get_weights(checkpoint, path)
    try:
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            backbone = registry.build(dict(node, init_cfg=None))
    except Exception:
        return  # the runner will build it again and say why not
    prefix = get_value(node, 'init_cfg.prefix')
    found = load_weights(backbone, strip_prefix(weights, prefix))
    if found['missing'] or found['size mismatch']:  # a classifier is unexpected
        other = None if prefix else find_prefix(list(backbone.state_dict()), weights)
        remedy = 'give a checkpoint of the same backbone'
        if other:
            remedy = f'pass --cfg-options model.backbone.init_cfg.prefix={other}'
        raise UserError(
            f'{path} does not fit model.backbone, a {get_type(node)}: '
            f'{format_mismatch(found)}; {remedy}'
        )
