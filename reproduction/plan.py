"""Plan which runs train the requested rows, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ra_mm.errors import UserError

from . import paper
from .user_data import DataFolder

# Classifiers of these tables show their gates, as in Fig. 5.
TABLES_WITH_GATES = (2, 3, 'beyond_imagenet')
TASKS = {
    'mmdet': 'boxes, for Tables 4 and 5 (Faster and Mask R-CNN), beyond_coco and '
    'finetune_detection',
    'mmpretrain': 'class folders, for Tables 2, 3 and 6 to 10, beyond_imagenet and '
    'finetune',
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        config: The row's config.
        seed: Random seed.
        needs: The run whose backbone this run starts from.
        shows_gates: Whether the gates are measured after the training.
        variant: What is changed in the config, see :mod:`.finetune`.
    """

    config: Path
    seed: int
    needs: 'Run | None' = None
    shows_gates: bool = False
    variant: str = ''

    @property
    def name(self) -> str:
        """What the runs with other seeds share."""
        return '-'.join(filter(None, [self.config.stem, self.variant]))

    @property
    def id(self) -> str:
        return f'{self.name}-seed{self.seed}'


@dataclass(frozen=True)
class Setting:
    """What all runs of a reproduction have in common.

    Attributes:
        scale: 'full' or 'demo'.
        folder: Folder of the ledger and the runs.
        data: The user's dataset. None for the paper's datasets, or for the
            drawn shapes at demo scale.
        gpus: Number of processes.
        nodes: Number of machines that these are on.
        launcher: 'none', 'pytorch' or 'slurm'.
        options: Changes to all configs, as from ``--cfg-options``. Only if
            ``data`` is given.
        weights: The file that fine-tuning starts from.
    """

    scale: str
    folder: Path
    data: DataFolder | None = None
    gpus: int = 1
    launcher: str = 'none'
    nodes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    @property
    def gpus_per_node(self) -> int:
        return -(-self.gpus // self.nodes)

    def work_dir(self, run: Run) -> Path:
        return self.folder / 'runs' / run.id


def select_rows(tables: Sequence[str], texts: Sequence[str] = ()) -> list[paper.Row]:
    """Select rows by table and name.

    Args:
        tables: 'table2' to 'table10', 'all' of these, or the name of a table
            that is not in the paper.
        texts: If given, select only rows whose name (such as 'Table 4,
            ResNet50 + Faster R-CNN, +RA') contains one of these texts,
            ignoring case. With ``*``, which stands for anything, a text must be
            the whole name: '*, +RA' leaves '+RA without annealing' out.

    Raises:
        UserError: If there is no such table, or no row with such a text.
    """
    rows = paper.all_rows()
    known = [*dict.fromkeys(map(_table_name, rows)), 'all']
    for table in tables:
        if table not in known:
            raise UserError(f'{table}: expected one of {", ".join(known)}')
    if 'all' in tables:
        tables = [*tables, *(_table_name(row) for row in rows if not row.is_beyond)]
    rows = [row for row in rows if _table_name(row) in tables]
    selected = [row for row in rows if not texts]
    for text in texts:
        pattern = text.lower() if '*' in text else f'*{text.lower()}*'
        matches = [row for row in rows if fnmatchcase(str(row).lower(), pattern)]
        if not matches:
            names = '\n'.join(f'  {row}' for row in rows)
            reason = 'no row has this in its name. The rows are'
            raise UserError(f'--rows {text!r}: {reason}:\n{names}')
        selected += matches
    return [row for row in rows if row in selected]


def _table_name(row):
    return row.table if row.is_beyond else f'table{row.table}'


def make_plan(
    rows: Sequence[paper.Row], seeds: int, data: DataFolder | None = None
) -> dict[str, Run]:
    """Collect the runs that the rows need, each once, by id.

    Args:
        rows: From :func:`select_rows`.
        seeds: Number of runs for each row, with the seeds 0, 1, ...
        data: The user's dataset. If given, no backbone is trained on ImageNet
            first.

    Returns:
        The runs in an order in which each follows the run that it needs. All
        rows with the first seed come first, so that they can be compared soon.

    Raises:
        UserError: If a row cannot be trained on the user's dataset.
    """
    if data:
        _check_rows(rows, data)
    shows_gates = {row.config for row in rows if row.table in TABLES_WITH_GATES}
    runs: dict[str, Run] = {}
    for seed in range(seeds):
        for row in rows:
            start = None
            if row.start and not data:
                start = Run(row.start, seed, None, row.start in shows_gates)
                runs.setdefault(start.id, start)
            run = Run(row.config, seed, start, row.config in shows_gates, row.variant)
            runs.setdefault(run.id, run)
    return runs


def _check_rows(rows, data):
    """Refuse rows that cannot be trained on the user's dataset."""
    expected = 'mmdet' if data.is_detection else 'mmpretrain'
    for row in rows:
        if Config.fromfile(row.config).default_scope != expected:
            text = f'{row}: --data {data.root} holds {TASKS[expected]}'
            raise UserError(f'{text}; choose such rows with --rows')
        if 'mask' in row.config.stem and not data.masks:
            text = f'{row}: Mask R-CNN needs a segmentation for each object, which'
            advice = 'choose --rows "Faster R-CNN"'
            raise UserError(f'{text} {data.root} does not have; {advice}')
