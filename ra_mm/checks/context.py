"""Context: a config, and the datasets and annotation files that it names."""

import os.path as osp
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ra_mm.checks.coco import CocoFile, read_coco
from ra_mm.engine.config import get_value, iter_dicts, iter_unwrapped
from ra_mm.errors import UserError


class DatasetEntry(NamedTuple):
    """A dataset of a config, built without reading its data."""

    key: str
    node: dict
    dataset: Any

    @property
    def is_train(self) -> bool:
        return self.key.startswith('train')

    @property
    def missing_paths(self) -> dict[str, str]:
        """The paths that do not exist, by name; the root alone if it does not."""
        if getattr(self.dataset, 'download', False):
            return {}  # it downloads its data itself
        root = self.dataset.data_root
        if root and not osp.exists(root):
            return {'data_root': root}
        paths = {f'data_prefix.{k}': v for k, v in self.dataset.data_prefix.items()}
        paths['ann_file'] = self.dataset.ann_file
        return {k: v for k, v in paths.items() if v and not osp.exists(v)}


@dataclass
class Context:
    """What the checks of a config look at.

    Args:
        cfg: The complete config.
        mode: 'train' (which includes validation), 'test', or 'data' for the data of
            'train' alone, without devices, checkpoints and schedules.
        resume: The value of ``--resume``: the checkpoint that became ``load_from``,
            or 'auto' if that should have been found in the work directory.
    """

    cfg: Config
    mode: str
    resume: str | None = None
    coco_files: dict[str, CocoFile | UserError] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        return ('test',) if self.mode == 'test' else ('train', 'val')

    def iter_nodes(self) -> Iterator[tuple[str, dict]]:
        """Yield the key and the config of each dataset."""
        for part in self.parts:
            root = get_value(self.cfg, f'{part}_dataloader.dataset')
            if isinstance(root, dict):
                yield from iter_unwrapped(root, f'{part}_dataloader.dataset')

    def iter_pipelines(self) -> Iterator[tuple[str, list]]:
        """Yield the key and the steps of the pipeline of each dataset."""
        for key, node in self.iter_nodes():
            yield f'{key}.pipeline', node.get('pipeline') or []

    def iter_evaluators(self) -> Iterator[tuple[str, dict]]:
        for part in self.parts:
            name = f'{part}_evaluator'
            yield from iter_dicts(self.cfg.get(name), name)

    @cached_property
    def all_datasets(self) -> list[DatasetEntry]:
        """Datasets whose data are on this machine, even if files are missing."""
        built = ((k, n, _build_lazily(self.cfg, n)) for k, n in self.iter_nodes())
        return [DatasetEntry(*entry) for entry in built if entry[2] is not None]

    @cached_property
    def datasets(self) -> list[DatasetEntry]:
        """Those of which no path is missing."""
        return [entry for entry in self.all_datasets if not entry.missing_paths]

    def read_coco(self, path: str) -> CocoFile | None:
        """Return the content of an annotation file, or None if it cannot be read.

        Each file is read once.
        """
        if path not in self.coco_files:
            try:
                self.coco_files[path] = read_coco(path)
            except UserError as e:
                self.coco_files[path] = e
        found = self.coco_files[path]
        return None if isinstance(found, UserError) else found


def is_local(node: dict) -> bool:
    """Whether a dataset or evaluator reads files of this machine."""
    backend = get_value(node, 'backend_args.backend', 'local')
    paths = f'{node.get("data_root")} {node.get("ann_file")}'
    return backend == 'local' and '://' not in paths


def _build_lazily(cfg: Config, node: dict) -> BaseDataset | None:
    """Build a dataset that knows its paths and classes, but has read nothing.

    Returns None where this is not possible: building it for the run will say why.
    """
    try:
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            metainfo = dict(node.get('metainfo') or {})
            metainfo.pop('palette', None)  # a wrong one is a fault of its own
            new = dict(node, metainfo=metainfo, lazy_init=True, pipeline=[])
            built = registry.build(new)
    except Exception:
        return None
    return built if isinstance(built, BaseDataset) and is_local(node) else None
