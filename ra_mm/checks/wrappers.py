"""Datasets within wrappers, and the names of types, in a config."""

from collections.abc import Iterator


def iter_unwrapped(node: dict, key: str) -> Iterator[tuple[str, dict]]:
    """Yield the key and config of each dataset within wrappers."""
    if 'dataset' in node:
        yield from iter_unwrapped(node['dataset'], f'{key}.dataset')
    elif 'datasets' in node:
        for i, child in enumerate(node['datasets']):
            yield from iter_unwrapped(child, f'{key}.datasets.{i}')
    else:
        yield key, node


def get_type(node) -> str | None:
    """Return the class name of a config whose type is a string or a class."""
    cls = node.get('type') if isinstance(node, dict) else None
    if cls is None:
        return None
    return str(getattr(cls, '__name__', cls)).rpartition('.')[2]
