"""Checks of the checkpoints that a config loads, and their download."""

from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.registry import MODELS

from ra_mm.engine.checkpoint_io import get_weights, read_checkpoint
from ra_mm.engine.config import iter_dicts
from ra_mm.engine.strict_load import format_mismatch, load_weights, strip_prefix
from ra_mm.errors import UserError, describe

from .config import get_value

# The backbones that RA backbones replace.
PLAIN = ('ResNet', 'ResNetV1c', 'ResNetV1d', 'ResNeXt', 'MobileNetV2')


def check_checkpoints(
    cfg: Config, mode: str, auto_resume: bool, remote: bool
) -> Iterator[str]:
    """Read the checkpoints that a run would load.

    Args:
        cfg (Config): The complete config.
        mode (str): 'train' or 'test'.
        auto_resume (bool): Whether ``load_from`` should have been found.
        remote (bool): Whether to read those with a URL, which downloads them to
            mmengine's cache, or the others.

    Yields:
        str: One problem each.
    """
    if auto_resume and not cfg.get('load_from'):
        yield (
            f'--resume: {cfg.work_dir} has no checkpoint; train without --resume, or '
            'name the checkpoint (--resume FILE) or its folder (--work-dir DIR)'
        )
    for path, key, remedy in _iter_checkpoints(cfg, mode):
        if ('://' in path) != remote:
            continue
        try:
            checkpoint = read_checkpoint(path)
            nested = checkpoint.get('model')  # the layout that Swin backbones read
            if key and isinstance(nested, Mapping) and not _is_plain_or_ours(cfg):
                checkpoint = nested
            weights = get_weights(checkpoint, path)
        except (OSError, ValueError, UserError) as e:
            what = f'{path} cannot be loaded: ' if path not in str(e) else ''
            yield f'{what}{e}; {remedy}'
        except Exception as e:
            if not remote:
                raise
            yield f'{path} cannot be downloaded ({describe(e)}); {remedy}'
        else:
            yield from _check_weights(cfg, path, key, remedy, checkpoint, weights)


def _iter_checkpoints(cfg, mode):
    """Yield (path, None or the dict that names it, how to name another one)."""
    if cfg.get('load_from'):
        on_command_line = mode == 'test' or cfg.get('resume')
        yield (
            cfg.load_from,
            None,
            'name another one on the command line'
            if on_command_line
            else 'pass --cfg-options load_from=FILE',
        )
    if mode == 'train':  # a test does not initialize weights
        for key, node in iter_dicts(cfg.model, 'model'):
            is_init = _type_name(node) in ('Pretrained', 'PretrainedInit')
            name = 'checkpoint' if is_init else 'pretrained'
            if isinstance(node.get(name), str):
                yield node[name], key, f'pass --cfg-options {key}.{name}=FILE'


def _type_name(node):
    """The class name in a config whose types are strings or classes."""
    cls = node.get('type')
    return str(getattr(cls, '__name__', cls)).rpartition('.')[2]


def _check_weights(cfg, path, key, remedy, checkpoint, weights):
    if (
        cfg.get('resume')
        and path == cfg.get('load_from')
        and not {'meta', 'message_hub', 'optimizer'} <= set(checkpoint)
    ):
        yield (
            f'{path} has only weights and cannot be resumed from; to start from them, '
            f'leave out --resume and pass --cfg-options load_from={path}'
        )
    # init_cfg of the backbone, or the older `pretrained` of the model.
    if key in ('model', 'model.backbone', 'model.backbone.init_cfg'):
        yield from _check_plain_backbone(cfg, path, weights, remedy)


def _is_plain_or_ours(cfg):
    node = get_value(cfg, 'model.backbone', {})
    cls = node.get('type')
    name = cls.__module__ if isinstance(cls, type) else str(cls)
    return name.startswith('ra_mm.') or _type_name(node) in PLAIN


def _check_plain_backbone(cfg, path, weights, remedy):
    """Check that all weights are found, where mmengine only warns.

    The RA backbones check this themselves.
    """
    node = get_value(cfg, 'model.backbone', {})
    has_own_weights = any(node.get(part) for part in ('dcn', 'plugins', 'conv_cfg'))
    if _type_name(node) not in PLAIN or has_own_weights:
        return
    try:
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            backbone = registry.build(dict(node, init_cfg=None))
    except Exception:
        return  # the runner will build it again and say why not
    prefix = get_value(node, 'init_cfg.prefix')
    found = load_weights(backbone, strip_prefix(weights, prefix))
    found.pop('unexpected')  # the classifier
    if any(found.values()):
        if not prefix and any(k.startswith('backbone.') for k in weights):
            remedy = 'pass --cfg-options model.backbone.init_cfg.prefix=backbone.'
        yield (
            f'{path} does not fit model.backbone, a {_type_name(node)}: '
            f'{format_mismatch(found)}; {remedy}'
        )
