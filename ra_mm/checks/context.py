"""Context: a config, and the datasets and annotation files that it names."""

import os.path as osp
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ra_mm.checks.coco import CocoFile, is_coco
from ra_mm.engine.config import get_value, iter_dicts, iter_unwrapped
from ra_mm.errors import UserError


class DatasetEntry(NamedTuple):
    """A dataset of a config, built without reading its data."""

    key: str
    node: dict
    dataset: Any

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
    files: dict[str, CocoFile | None] = field(default_factory=dict)  # by real path
    unreadable: list[str] = field(default_factory=list)  # why files are None

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
        """Yield the key and the config of each metric, and of what holds several."""
        name = f'{self.parts[-1]}_evaluator'
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

    @cached_property
    def coco(self) -> list[tuple[DatasetEntry, CocoFile]]:
        """The datasets that are read as COCO, with their annotation files."""
        entries = (entry for entry in self.datasets if is_coco(entry.dataset))
        return [(e, coco) for e in entries if (coco := self._read(e.dataset.ann_file))]

    @cached_property
    def evaluated_coco(self) -> list[tuple[DatasetEntry, CocoFile]]:
        """Those of the part that the metrics evaluate."""
        return [found for found in self.coco if found[0].key.startswith(self.parts[-1])]

    @cached_property
    def evaluators_with_files(self) -> list[tuple[str, dict, str]]:
        """Key, config and annotation file of each metric that reads one."""
        return [
            (key, node, node['ann_file'])
            for key, node in self.iter_evaluators()
            if isinstance(node.get('ann_file'), str) and _is_local(node)
        ]

    @cached_property
    def metrics(self) -> list[tuple[str, dict, CocoFile]]:
        """Key, config and annotation file of each metric of the datasets in COCO."""
        found = self.evaluators_with_files if self.evaluated_coco else ()
        files = ((k, n, self._read(path)) for k, n, path in found if osp.exists(path))
        return [(key, node, coco) for key, node, coco in files if coco]

    @cached_property
    def all_coco(self) -> list[tuple[DatasetEntry, CocoFile]]:
        """``coco``, and other files of metrics as if their datasets read them."""
        known = [coco for _, coco in self.evaluated_coco]
        others = dict.fromkeys(coco for *_, coco in self.metrics if coco not in known)
        return [*self.coco, *((self.evaluated_coco[0][0], coco) for coco in others)]

    def _read(self, path: str) -> CocoFile | None:
        real = osp.realpath(path)
        if real not in self.files:
            try:
                self.files[real] = CocoFile(path)
            except UserError as e:
                self.files[real] = None
                self.unreadable.append(str(e))
        return self.files[real]


def _is_local(node: dict) -> bool:
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
    return built if isinstance(built, BaseDataset) and _is_local(node) else None
