"""Config values that would be wrong silently, or only after hours.

Values that PyTorch, MMEngine or the toolboxes reject while they build the run
are left to them.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from ra_mm import validation as kinds
from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error
from ra_mm.engine.config import iter_dicts

# MMEngine accepts 1000.0, and some configs of the toolboxes have it.
INTERVAL = kinds.Kind(
    'an integer >= 1', lambda x: kinds.number(1).test(x) and x == int(x)
)
# Glob patterns of the paths in a config, and what their values must be.
RULES = {
    # The other rules rely on these.
    'model': kinds.BUILD_CFG,
    'load_from work_dir': kinds.NONE | kinds.STR,
    # Any text is true.
    'resume auto_scale_lr.enable *.by_epoch *_dataloader.persistent_workers '
    '*_dataloader.pin_memory *_dataloader.drop_last *.sampler.shuffle': kinds.BOOL,
    'default_hooks.checkpoint.interval': kinds.one_of(-1) | kinds.integer(1),
    '*_dataloader.batch_size auto_scale_lr.base_batch_size train_cfg.max_* '
    'optim_wrapper.accumulative_counts': kinds.integer(1),
    'train_cfg.val_begin': kinds.integer(0),
    'train_cfg.val_interval': INTERVAL,
    '*data_preprocessor.mean *data_preprocessor.std': kinds.NONE
    | kinds.list_of(kinds.number()),
    'optim_wrapper.optimizer.lr optim_wrapper.clip_grad.max_norm '
    'param_scheduler*.gamma': kinds.POSITIVE,
    'param_scheduler*.milestones': kinds.list_of(kinds.integer(0)),
}
REQUIRED = dict(
    train='model train_cfg train_dataloader optim_wrapper',
    test='model test_cfg test_dataloader test_evaluator',
    data='model train_dataloader',
)
NOT_READ = dict(
    train=('test_',),
    test=('train_', 'val_', 'optim_', 'param_', 'auto_'),
    data=('test_', 'optim_', 'param_', 'auto_'),
)


def check_values(context: Context) -> Iterator[Finding]:
    """All parts of a config are there, and its values are of the right kind."""
    cfg = context.cfg
    for name in REQUIRED[context.mode].split():
        if cfg.get(name) is None:
            yield error(f'{cfg.filename} has no {name}: pass a complete config')
    for parent, node in iter_dicts(cfg):
        for name, value in node.items():
            path = f'{parent}.{name}' if parent else name
            if path.startswith(NOT_READ[context.mode]):
                continue
            for patterns, kind in RULES.items():
                is_ruled = any(fnmatchcase(path, p) for p in patterns.split())
                if is_ruled and not kind.test(value):
                    yield error(f'{path}={value!r}: expected {kind.expected}')
