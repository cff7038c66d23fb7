"""The checkpoints that a config loads, and their download."""

from collections.abc import Iterator

from mmengine.registry import MODELS

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, remedy
from ra_mm.engine.checkpoint_io import get_weights, read_checkpoint
from ra_mm.engine.config import get_type, get_value, iter_dicts
from ra_mm.engine.strict_load import load_weights, strip_prefix
from ra_mm.errors import UserError

# The backbones that RA backbones replace.
PLAIN = ('ResNet', 'ResNetV1c', 'ResNetV1d', 'ResNeXt', 'MobileNetV2')
RESUMABLE = {'meta', 'message_hub', 'optimizer'}


def check_resume(context: Context) -> Iterator[Finding]:
    """There is a checkpoint to resume from."""
    if context.resume == 'auto' and not context.cfg.get('load_from'):
        advice = 'leave it out, or pass --resume FILE or the folder as --work-dir DIR'
        yield error(f'--resume: {context.cfg.work_dir} has no checkpoint; {advice}')


def check_checkpoints(context: Context, is_remote: bool = False) -> Iterator[Finding]:
    """Checkpoint files can be read, or downloaded to MMEngine's cache, and fit."""
    for key, path in _iter_checkpoints(context):
        if ('://' in path) == is_remote:
            try:
                _check(context.cfg, key, path)
            except (UserError, OSError) as e:
                name = '--resume' if key == 'load_from' and context.resume else key
                # That of a test is an argument of the tool.
                is_argument = key == 'load_from' and context.mode == 'test'
                yield error(str(e) if is_argument else f'{name}: {e}')


def _iter_checkpoints(context):
    """Yield each dotted path in the config with the file or URL that it names."""
    cfg = context.cfg
    if cfg.get('load_from'):
        yield 'load_from', cfg.load_from
    if context.mode == 'train':  # a test does not initialize weights
        for key, node in iter_dicts(cfg.model, 'model'):
            is_init = get_type(node) in ('Pretrained', 'PretrainedInit')
            name = 'checkpoint' if is_init else 'pretrained'
            if isinstance(node.get(name), str):
                yield f'{key}.{name}', node[name]


def _check(cfg, key, path):
    checkpoint = read_checkpoint(path)
    if key == 'load_from':
        get_weights(checkpoint, path)
        if cfg.get('resume') and not checkpoint.keys() >= RESUMABLE:
            text = f'{path} has only weights and cannot be resumed from: leave out'
            raise UserError(f'{text} --resume, and {remedy({"load_from": path})}')
    elif key == 'model.pretrained' or key.startswith('model.backbone.'):
        _check_plain_backbone(cfg, key, checkpoint, path)


def _check_plain_backbone(cfg, key, checkpoint, path):
    """Check that all weights are found, where mmengine only warns.

    The RA backbones check this themselves.
    """
    from ra_mm.backbones.pretrained import refuse_mismatch  # imports mmpretrain

    node = get_value(cfg, 'model.backbone', {})
    has_own_weights = any(node.get(part) for part in ('dcn', 'plugins', 'conv_cfg'))
    if get_type(node) not in PLAIN or has_own_weights:
        return
    weights = get_weights(checkpoint, path)
    if weights is not checkpoint.get('state_dict', checkpoint):
        text = f'{path} has its weights where mmengine does not look for them'
        raise UserError(f'{text}: save them as they are, or under state_dict')
    try:
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            backbone = registry.build(dict(node, init_cfg=None))
    except Exception:
        return  # the runner will build it again and say why not
    prefix = get_value(cfg, f'{key.rpartition(".")[0]}.prefix')
    found = load_weights(backbone, strip_prefix(weights, prefix))
    refuse_mismatch(backbone, found, weights, path)
