"""Checks of config values that would be wrong silently, or only after hours.

Values that PyTorch, MMEngine or the toolboxes reject while they build the run
are left to them.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS

from ra_mm.engine.config import iter_dicts
from ra_mm.validation import (
    BELOW_1,
    BOOL,
    BUILD_CFG,
    NONE,
    POSITIVE,
    STR,
    Rule,
    integer,
    list_of,
    number,
    one_of,
)

# MMEngine accepts 1000.0, and some configs of the toolboxes have it.
INTERVAL = Rule('an integer >= 1', lambda v: number(1).test(v) and v == int(v))
# By glob pattern of the path in the config.
RULES = {
    'model': BUILD_CFG,
    'default_scope': NONE | STR,
    'load_from': NONE | STR,
    'work_dir': NONE | STR,
    'resume': BOOL,
    'default_hooks.checkpoint.interval': one_of(-1) | integer(1),
    '*data_preprocessor.mean': NONE | list_of(number()),
    '*data_preprocessor.std': NONE | list_of(POSITIVE),
    '*_dataloader.dataset': BUILD_CFG,
    '*_dataloader.batch_size': integer(1),
    '*_dataloader.persistent_workers': BOOL,
    '*_dataloader.pin_memory': BOOL,
    '*_dataloader.drop_last': BOOL,
    '*_dataloader.sampler.shuffle': BOOL,
    'train_cfg.by_epoch': BOOL,
    'train_cfg.max_*': integer(1),
    'train_cfg.val_begin': integer(0),
    'train_cfg.val_interval': INTERVAL,
    'optim_wrapper.accumulative_counts': integer(1),
    'optim_wrapper.clip_grad.max_norm': POSITIVE,
    'optim_wrapper.optimizer.lr': POSITIVE,
    'optim_wrapper.optimizer.momentum': BELOW_1,
    'optim_wrapper.optimizer.weight_decay': number(0),
    'auto_scale_lr.base_batch_size': integer(1),
    'auto_scale_lr.enable': BOOL,
    'param_scheduler*.by_epoch': BOOL,
    'param_scheduler*.gamma': POSITIVE,
    'param_scheduler*.milestones': list_of(integer(0)),
}
# What each mode needs, and the beginnings of what it does not use.
NEEDED = dict(
    train=('model', 'train_cfg', 'train_dataloader', 'optim_wrapper'),
    test=('model', 'test_cfg', 'test_dataloader', 'test_evaluator'),
)
UNUSED = dict(train=('test_',), test=('train_', 'val_', 'optim_', 'param_', 'auto_'))


def check_values(cfg: Config, mode: str) -> Iterator[str]:
    """Yield a problem for each missing or wrong value, with its path in the config."""
    for name in NEEDED[mode]:
        if cfg.get(name) is None:
            yield f'{cfg.filename} has no {name}: pass a complete config'
    for parent, node in [('', cfg), *iter_dicts(cfg)]:
        for name, value in node.items():
            path = f'{parent}.{name}' if parent else name
            if path.startswith(UNUSED[mode]):
                continue
            for pattern, rule in RULES.items():
                if fnmatchcase(path, pattern) and not rule.test(value):
                    yield f'{path}={value!r}: expected {rule.expected}'
    if mode == 'train':
        yield from _check_optimizer(cfg)
        if cfg.get('val_dataloader') is not None:
            yield from _check_val_begin(cfg)


def _check_optimizer(cfg):
    """mmengine says of an unknown name only that None is not callable."""
    name, scope = (
        get_value(cfg, 'optim_wrapper.optimizer.type'),
        cfg.get('default_scope'),
    )
    if isinstance(name, str) and (scope is None or isinstance(scope, str)):
        with OPTIMIZERS.switch_scope_and_registry(scope) as registry:
            if registry.get(name) is None:
                yield f'optim_wrapper.optimizer.type={name!r}: no such optimizer'


def _check_val_begin(cfg):
    begin = get_value(cfg, 'train_cfg.val_begin')
    for name in ('max_epochs', 'max_iters'):
        end = get_value(cfg, f'train_cfg.{name}')
        if integer(1).test(begin) and integer(1).test(end) and begin > end:
            yield (
                f'train_cfg.val_begin={begin}: the run would end at {name}={end} '
                f'without a validation; pass --cfg-options train_cfg.val_begin={end}'
            )


def get_value(cfg: Config, path: str, default=None):
    """Return the value at a dotted path, or ``default`` if the path is absent."""
    node = cfg
    for name in path.split('.'):
        if isinstance(node, list | tuple) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, dict | Config) and name in node:
            node = node[name]
        else:
            return default
    return node
