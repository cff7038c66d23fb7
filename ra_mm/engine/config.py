"""Walking through configs."""

from collections.abc import Iterator

from mmengine.config import Config


def iter_dicts(node, path: str = '') -> Iterator[tuple[str, dict]]:
    """Yield each dict of a config with its dotted path."""
    if isinstance(node, (dict, Config)):
        if path:
            yield path, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from iter_dicts(child, f'{path}.{name}' if path else name)
