"""Look up values in configs."""

import inspect
from collections.abc import Iterator

from mmengine.config import Config


def get_toolbox(cfg: Config) -> str | None:
    """Return 'mmdet', 'mmseg' or 'mmpretrain', or None for another library."""
    packages = [cfg.get('default_scope')]
    kind = (cfg.get('model') or {}).get('type')
    if inspect.isclass(kind):  # a pure-Python config, which needs no scope
        packages += [base.__module__.split('.')[0] for base in kind.__mro__]
    return next((p for p in packages if p in ('mmdet', 'mmseg', 'mmpretrain')), None)


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


def iter_dicts(node, path: str = '') -> Iterator[tuple[str, dict]]:
    """Yield each dict of a config with its dotted path."""
    if isinstance(node, dict | Config):
        if path:
            yield path, node
        children = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from iter_dicts(child, f'{path}.{name}' if path else name)
