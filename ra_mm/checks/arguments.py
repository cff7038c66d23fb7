"""Checks that what is built after the model takes the arguments in its config.

Building it would say so too, but one mistake at a time, when the model is built and
the data is loaded.
"""

import inspect
import re
from collections.abc import Iterator

from mmengine import registry
from mmengine.config import Config
from torch.utils.data import DataLoader

from ra_mm.engine.config import iter_dicts
from ra_mm.validation import did_you_mean, shorten

from .values import UNUSED

# The registry of what is built from a config, and its keys there.
BUILT = (
    (registry.LOOPS, r'(train|val|test)_cfg'),
    (registry.DATA_SAMPLERS, r'\w+_dataloader\.(batch_)?sampler'),
    (registry.TRANSFORMS, r'\w+_dataloader\.dataset[.\w]*\.pipeline\.\d+'),
    (registry.METRICS, r'\w+_evaluator(\.metrics)?(\.\d+)?'),
    (registry.OPTIM_WRAPPERS, r'optim_wrapper'),
    (registry.OPTIMIZERS, r'optim_wrapper\.optimizer'),
    (registry.PARAM_SCHEDULERS, r'param_scheduler(\.\d+)?'),
    (registry.HOOKS, r'(default|custom)_hooks\.\w+'),
)
# What the runner removes before it builds something with the other keys.
REMOVED = {
    *('type', '_scope_', 'priority', 'by_epoch', 'constructor', 'paramwise_cfg'),
    *('convert_to_iter_based', 'num_batch_per_epoch'),
}
DEFAULT_TYPES = dict(
    val_cfg='ValLoop', test_cfg='TestLoop', optim_wrapper='OptimWrapper'
)


def check_arguments(cfg: Config, mode: str) -> Iterator[str]:
    """Yield a problem for each key that is no argument of what it configures."""
    for key, node in iter_dicts(cfg):
        if key.startswith(UNUSED[mode]):
            continue
        cls = _find_class(cfg, key, node)
        known = _list_arguments(cls) if cls else None
        if known:
            for name in sorted(node.keys() - known - REMOVED):
                hint = did_you_mean(name, known) or f'; it has {shorten(sorted(known))}'
                yield f'{key}: {cls.__name__} has no argument {name!r}{hint}'


def _find_class(cfg, key, node):
    """Return the class that is built from a part of a config, if it is known."""
    if re.fullmatch(r'\w+_dataloader', key):
        return DataLoader
    for built, pattern in BUILT:
        if re.fullmatch(pattern, key):
            default = DEFAULT_TYPES.get(key)
            if key == 'train_cfg' and 'by_epoch' in node:
                default = 'EpochBased' if node['by_epoch'] else 'IterBased'
                default += 'TrainLoop'
            cls = node.get('type', default)
            if isinstance(cls, str):
                try:
                    scope = cfg.get('default_scope')
                    with built.switch_scope_and_registry(scope) as own:
                        cls = own.get(cls)
                except Exception:  # building it will say why not
                    return None
            return cls if inspect.isclass(cls) else None
    return None


def _list_arguments(cls) -> set[str] | None:
    """Return the names of the arguments of a class, or None if it may take any."""
    names: set[str] = set()
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {
            p.name
            for p in parameters
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
        # MMEngine's classes pass them to the next base; those of others need not.
        if not base.__module__.startswith('mmengine.'):
            return None
    return None
