"""Find values, types and datasets in configs."""

import inspect
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config


def get_toolbox(cfg: Config) -> str | None:
    """Return 'mmdet', 'mmseg' or 'mmpretrain', or None for another library."""
    packages = [cfg.get('default_scope')]
    kind = (cfg.get('model') or {}).get('type')
    if inspect.isclass(kind):  # a pure-Python config, which needs no scope
        packages += [base.__module__.split('.')[0] for base in kind.__mro__]
    return next((p for p in packages if p in ('mmdet', 'mmseg', 'mmpretrain')), None)


def get_value(cfg: Config, path: str, default: Any = None) -> Any:
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


def iter_dicts(node: Any, path: str = '') -> Iterator[tuple[str, dict]]:
    """Yield each dict of a config, itself too, with its dotted path."""
    if isinstance(node, dict | Config):
        yield path, node
        children = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from iter_dicts(child, f'{path}.{name}' if path else name)


def get_type(node: Any) -> str:
    """Return the class name of a config by its type, a string or a class; or ''."""
    cls = node.get('type') if isinstance(node, dict) else None
    return str(getattr(cls, '__name__', cls or '')).rpartition('.')[2]


def reads_as(dataset: Any, name: str) -> bool:
    """Whether the method of this full name reads the data of a dataset."""
    load: Any = getattr(dataset, 'load_data_list', None)
    return load is not None and f'{load.__module__}.{load.__qualname__}' == name


def iter_unwrapped(dataset: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield each dataset within wrappers such as RepeatDataset, with its key.

    Args:
        dataset: A dataset or its config, possibly of a wrapper.
        key: The dotted path of this config.
    """
    child = getattr(dataset, 'dataset', None)
    if (children := getattr(dataset, 'datasets', None)) is not None:
        for i, each in enumerate(children):
            yield from iter_unwrapped(each, f'{key}.datasets.{i}')
    elif child is not None:
        yield from iter_unwrapped(child, f'{key}.dataset')
    else:
        yield key, dataset
