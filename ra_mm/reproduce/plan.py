"""Plans the runs that train the requested rows: their order and commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ra_mm.errors import UserError
from ra_mm.reproduce import paper

from .data import Dataset, set_dataset, shapes_dataset
from .demo import shrink

REPO = paper.CONFIGS.parent
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Setting:
    """What all runs of a reproduction have in common.

    Attributes:
        scale: 'full' or 'demo'.
        folder: Folder of the ledger and the runs.
        data: The user's dataset. None for the paper's datasets, or for the
            drawn shapes at demo scale.
        gpus: Number of processes.
        launcher: 'none', 'pytorch' or 'slurm'.
        options: Changes to all configs, as from ``--cfg-options``. Only if
            ``data`` is given.
    """

    scale: str
    folder: Path
    data: Dataset | None = None
    gpus: int = 1
    launcher: str = 'none'
    options: Mapping[str, Any] = field(default_factory=dict)

    def work_dir(self, run: 'Run') -> Path:
        return self.folder / 'runs' / run.id


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        config: The row's config.
        seed: Random seed.
        needs: The run whose backbone this run starts from.
    """

    config: Path
    seed: int
    needs: 'Run | None' = None

    @property
    def id(self) -> str:
        return f'{self.config.stem}-seed{self.seed}'


@dataclass(frozen=True)
class Job:
    """How a run is trained.

    Attributes:
        cfg: The config, without the options in ``command``.
        file: The config file that ``command`` reads. It must be written first
            unless it is the row's own.
        command: The command line.
        checkpoint: The checkpoint after the last iteration.
        scaling: How ``--auto-scale-lr`` changes the learning rate, if it does.
        initial: The file of initial weights that the run loads. It must be
            written first, see :func:`.initial.write_initial_weights`.
    """

    cfg: Config
    file: Path
    command: list[str]
    checkpoint: Path
    scaling: str | None
    initial: Path | None = None


def choose_rows(tables: Sequence[str], texts: Sequence[str] = ()) -> list[paper.Row]:
    """Choose rows by table and name.

    Args:
        tables: 'table2' to 'table10', 'all' of these, or the name of a table
            that is not in the paper.
        texts: If given, choose only rows whose name (such as 'Table 4,
            ResNet50 + Faster R-CNN, +RA') contains one of these texts,
            ignoring case.

    Raises:
        UserError: If there is no such table, or no row with such a text.
    """
    rows = [*paper.rows(), *paper.beyond_rows()]
    known = [*dict.fromkeys(map(_table_name, rows)), 'all']
    for table in tables:
        if table not in known:
            raise UserError(f'{table}: expected one of {", ".join(known)}')
    rows = [
        row
        for row in rows
        if _table_name(row) in tables or ('all' in tables and not row.is_beyond)
    ]
    for text in texts:
        if not any(_contains(row, text) for row in rows):
            raise UserError(
                f'--rows {text!r}: no row has this in its name. '
                'The rows are:\n' + '\n'.join(f'  {row}' for row in rows)
            )
    return [
        row for row in rows if not texts or any(_contains(row, text) for text in texts)
    ]


def _table_name(row):
    return row.table if row.is_beyond else f'table{row.table}'


def _contains(row, text):
    return text.lower() in str(row).lower()


def check_rows(rows: Sequence[paper.Row], data: Dataset) -> None:
    """Refuse rows that cannot be trained on the user's dataset.

    Raises:
        UserError: It names the row and what can be trained instead.
    """
    for row in rows:
        scope = Config.fromfile(row.config).default_scope
        if scope == 'mmseg':
            raise UserError(
                f'{row}: --data supports detection (Tables 4 and 5, Faster and '
                'Mask R-CNN, beyond_coco) and classification (Tables 2, 3 and 6 '
                'to 10, beyond_imagenet), not UperNet; choose other rows with --rows'
            )
        if (scope == 'mmdet') != data.is_detection:
            raise UserError(
                f'{row}: --data {data.root} holds '
                f'{"boxes" if data.is_detection else "class folders"}, for '
                + (
                    'Tables 4 and 5 and beyond_coco'
                    if data.is_detection
                    else 'Tables 2, 3 and 6 to 10 and beyond_imagenet'
                )
            )
        if 'mask' in row.config.stem and not data.masks:
            raise UserError(
                f'{row}: Mask R-CNN needs a segmentation for each object, '
                f'which {data.root} does not have; choose --rows "Faster '
                'R-CNN"'
            )


def make_plan(rows: Sequence[paper.Row], seeds: int, own_data: bool) -> dict[str, Run]:
    """Collect the runs that the rows need, each once, by id.

    Args:
        rows: From :func:`choose_rows`.
        seeds: Number of runs for each row, with the seeds 0, 1, ...
        own_data: Whether they train on the user's data. If so, no backbone is
            trained on ImageNet first.

    Returns:
        The runs in an order in which each follows the run that it needs. All
        rows with the first seed come first, so that they can be compared soon.
    """
    runs = {}
    for runs_of_seed in zip(*(runs_of_row(row, seeds, own_data) for row in rows)):
        for run in runs_of_seed:
            if run.needs:
                runs.setdefault(run.needs.id, run.needs)
            runs.setdefault(run.id, run)
    return runs


def runs_of_row(row: paper.Row, seeds: int, own_data: bool) -> list[Run]:
    """The runs of one row, one for each seed; see :func:`make_plan`."""
    return [
        Run(
            row.config,
            seed,
            Run(row.start, seed) if row.start and not own_data else None,
        )
        for seed in range(seeds)
    ]


def make_job(run: Run, setting: Setting) -> Job:
    """Prepare a run without writing anything."""
    cfg = Config.fromfile(run.config)
    is_paper_config = setting.scale == 'full' and setting.data is None
    if setting.scale == 'demo':
        shrink(cfg, own_data=setting.data is not None)
    if not is_paper_config:
        set_dataset(
            cfg,
            setting.data
            or shapes_dataset(
                setting.folder / 'data', cfg.default_scope != 'mmpretrain'
            ),
        )
        if setting.data and cfg.model.backbone.get('frozen_stages', -1) > 0:
            # A frozen attention would stay untrained; all rows are treated alike.
            cfg.model.backbone.frozen_stages = 0
    cfg.merge_from_dict(dict(setting.options))

    options = {'randomness.seed': run.seed}
    if has_gates(cfg):
        options['default_hooks.gates.type'] = 'ra_mm.GateLogHook'
        if not is_paper_config:
            options['default_hooks.gates.interval'] = min(
                50, cfg.default_hooks.logger.interval
            )
    if run.needs:
        options.update(_initial_weights(cfg, make_job(run.needs, setting).checkpoint))

    work_dir = setting.work_dir(run)
    initial = None
    if setting.data:
        initial = work_dir / 'initial.pth'
        options['load_from'] = display_path(initial)
    file = run.config if is_paper_config else work_dir / 'config.py'
    command = [
        *_launch(setting, cfg),
        display_path(REPO / 'tools/train.py'),
        display_path(file),
        '--work-dir',
        display_path(work_dir),
        '--auto-scale-lr',
    ]
    if setting.launcher != 'none':
        command += ['--launcher', setting.launcher]
    if is_paper_config:
        command += ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    else:
        cfg.merge_from_dict(options)
    return Job(
        cfg,
        file,
        command,
        work_dir / last_checkpoint(cfg),
        scaling(cfg, setting.gpus),
        initial,
    )


def last_checkpoint(cfg: Config) -> str:
    """The file name of the checkpoint after the last iteration."""
    if 'max_epochs' in cfg.train_cfg:
        return f'epoch_{cfg.train_cfg.max_epochs}.pth'
    return f'iter_{cfg.train_cfg.max_iters}.pth'


def has_gates(cfg: Config) -> bool:
    """Whether the model has reverse attention."""
    backbone = cfg.model.backbone
    attention = backbone.get('attention') or {}
    return (
        backbone.type.startswith('ra_mm.')
        and attention.get('type', 'ra_mm.ReverseAttention') == 'ra_mm.ReverseAttention'
    )


def scaling(cfg: Config, gpus: int) -> str | None:
    """How ``--auto-scale-lr`` changes the learning rate; None if it does not."""
    base = cfg.auto_scale_lr.base_batch_size
    images = cfg.train_dataloader.batch_size * gpus
    if images == base:
        return None
    lr = cfg.optim_wrapper.optimizer.lr
    return f'lr {lr:g} -> {lr * images / base:g} ({images} images per step, not {base})'


def _initial_weights(cfg, checkpoint):
    """The options to start a detector or segmenter from an ImageNet run."""
    key = 'model.backbone.init_cfg'
    options = {f'{key}.checkpoint': display_path(checkpoint)}
    backbone = cfg.model.backbone
    if cfg.model.backbone.get('init_cfg') is None:
        options[f'{key}.type'] = 'Pretrained'
        backbone.init_cfg = {}
    if not backbone.type.startswith('ra_mm.'):
        options[f'{key}.prefix'] = 'backbone.'
    # mmseg's configs have the deep stem, the ImageNet configs the plain one.
    if cfg.model.get('pretrained'):
        options['model.pretrained'] = None
    if backbone.type == 'ResNetV1c':
        options['model.backbone.type'] = 'ResNet'
    elif backbone.get('deep_stem'):
        options['model.backbone.deep_stem'] = False
    return options


def _launch(setting, cfg):
    """The start of the command line, for nodes with up to 8 GPUs."""
    if setting.launcher == 'none':
        return ['python']
    if setting.launcher == 'pytorch':
        return ['torchrun', '--standalone', f'--nproc_per_node={setting.gpus}']
    per_node = min(setting.gpus, GPUS_PER_NODE)
    return [
        'srun',
        f'--gres=gpu:{per_node}',
        f'--ntasks={setting.gpus}',
        f'--ntasks-per-node={per_node}',
        f'--cpus-per-task={max(1, cfg.train_dataloader.num_workers)}',
        '--kill-on-bad-exit=1',
        'python',
        '-u',
    ]


def display_path(path: Path) -> str:
    """Format a path as a user would type it: relative if it is inside the cwd."""
    path, here = Path(path).absolute(), Path.cwd()
    return str(path.relative_to(here) if here in path.parents else path)
