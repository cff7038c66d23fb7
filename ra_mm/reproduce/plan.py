"""What is to be run for which rows, in which order, by which commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from mmengine.config import Config

from ra_mm.reproduce import paper

from .data import Dataset, shapes, use
from .demo import shrink

REPO = paper.CONFIGS.parent
GPUS_A_NODE = 8


@dataclass(frozen=True)
class Setting:
    """What all runs of a reproduction have in common.

    Attributes:
        scale (str): 'full' or 'demo'.
        folder (Path): Of ledger and runs.
        data (Dataset, optional): The user's own; None for the paper's, or
            for the drawn shapes at demo scale.
        gpus (int): Number of processes.
        launcher (str): 'none', 'pytorch' or 'slurm'.
    """

    scale: str
    folder: Path
    data: Dataset | None = None
    gpus: int = 1
    launcher: str = 'none'

    def work_dir(self, run: 'Run') -> Path:
        return self.folder / 'runs' / run.id


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        config (Path): The row's config.
        seed (int): Seed of everything that is random.
        needs (Run, optional): What its backbone starts from.
    """

    config: Path
    seed: int
    needs: Optional['Run'] = None

    @property
    def id(self) -> str:
        return f'{self.config.stem}-seed{self.seed}'


@dataclass(frozen=True)
class Job:
    """How a run is trained.

    Attributes:
        cfg (Config): What is trained, but for the options in ``command``.
        file (Path): Where ``command`` reads it; it has to be written there if
            it is not one of the repository's.
        command (list[str]): The command line.
        checkpoint (Path): What is left after the last iteration.
        scaling (str, optional): What ``--auto-scale-lr`` does, if anything.
    """

    cfg: Config
    file: Path
    command: list[str]
    checkpoint: Path
    scaling: str | None


def choose_rows(words: Sequence[str], texts: Sequence[str] = ()) -> list[paper.Row]:
    """The rows that are asked for.

    Args:
        words (Sequence[str]): 'table2' to 'table10', or 'all'.
        texts (Sequence[str]): Of these tables the rows alone whose name (as
            'Table 4, ResNet50 + Faster R-CNN, +RA') has one of these texts in
            it, in either case. None: all rows.

    Raises:
        ValueError: If there is no such table, or no row with such a text.
    """
    known = [f'table{n}' for n in sorted({row.table for row in paper.rows()})]
    for word in words:
        if word not in [*known, 'all']:
            raise ValueError(f'{word}: expected {", ".join(known)} or all')
    numbers = [] if 'all' in words else [int(word[5:]) for word in words]
    rows = paper.rows(*numbers)
    for text in texts:
        if not any(_has(row, text) for row in rows):
            raise ValueError(
                f'--rows {text!r}: no row has this in its name. '
                'There are:\n' + '\n'.join(f'  {row}' for row in rows)
            )
    return [row for row in rows if not texts or any(_has(row, text) for text in texts)]


def _has(row, text):
    return text.lower() in str(row).lower()


def check_rows(rows: Sequence[paper.Row], data: Dataset) -> None:
    """Refuse rows that cannot be trained on the user's dataset.

    Raises:
        ValueError: Naming the rows and what can be trained instead.
    """
    for row in rows:
        scope = Config.fromfile(row.config).default_scope
        if scope == 'mmseg':
            raise ValueError(
                f'{row}: --data takes detection (Tables 4 and 5, Faster and '
                'Mask R-CNN) and classification (Tables 2, 3 and 6 to 10), '
                'not UperNet; choose others with --rows'
            )
        if (scope == 'mmdet') != data.is_detection:
            raise ValueError(
                f'{row}: --data {data.root} holds '
                f'{"boxes" if data.is_detection else "class folders"}, which '
                'go with '
                + ('Tables 4 and 5' if data.is_detection else 'Tables 2, 3 and 6 to 10')
            )
        if 'mask' in row.config.stem and not data.masks:
            raise ValueError(
                f'{row}: Mask R-CNN needs a segmentation for each object, '
                f'which {data.root} does not have; choose --rows "Faster '
                'R-CNN"'
            )


def make_plan(rows: Sequence[paper.Row], seeds: int, own: bool) -> dict[str, Run]:
    """The runs that the rows need, each once, by id.

    Args:
        rows (Sequence[paper.Row]): From :func:`choose_rows`.
        seeds (int): Number of runs for each row, seeded 0, 1, ...
        own (bool): Whether they train on the user's data: then nothing is
            trained on ImageNet first.

    Returns:
        dict[str, Run]: In an order in which each finds done what it needs.
    """
    runs = {}
    for row in rows:
        for run in runs_of(row, seeds, own):
            if run.needs:
                runs.setdefault(run.needs.id, run.needs)
            runs.setdefault(run.id, run)
    return runs


def runs_of(row: paper.Row, seeds: int, own: bool) -> list[Run]:
    """The runs of one row, one for each seed, see :func:`make_plan`."""
    return [
        Run(row.config, seed, Run(row.start, seed) if row.start and not own else None)
        for seed in range(seeds)
    ]


def make_job(run: Run, setting: Setting) -> Job:
    """How a run is trained; nothing is written."""
    cfg = Config.fromfile(run.config)
    whole = setting.scale == 'full' and setting.data is None
    if setting.scale == 'demo':
        shrink(cfg, own=setting.data is not None)
    if not whole:
        use(
            cfg,
            setting.data
            or shapes(setting.folder / 'data', cfg.default_scope != 'mmpretrain'),
        )
        if setting.data and cfg.model.backbone.get('frozen_stages', -1) > 0:
            # An attention there would stay untrained; all rows alike.
            cfg.model.backbone.frozen_stages = 0

    options = {'randomness.seed': run.seed}
    if has_gates(cfg):
        options['default_hooks.gates.type'] = 'ra_mm.GateLogHook'
        if not whole:
            options['default_hooks.gates.interval'] = min(
                50, cfg.default_hooks.logger.interval
            )
    if run.needs:
        options.update(_start(cfg, make_job(run.needs, setting).checkpoint))

    work_dir = setting.work_dir(run)
    file = run.config if whole else work_dir / 'config.py'
    command = [
        *_launch(setting, cfg),
        shown(REPO / 'tools/train.py'),
        shown(file),
        '--work-dir',
        shown(work_dir),
        '--auto-scale-lr',
    ]
    if setting.launcher != 'none':
        command += ['--launcher', setting.launcher]
    if whole:
        command += ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    else:
        cfg.merge_from_dict(options)
    return Job(
        cfg, file, command, work_dir / last_checkpoint(cfg), scaling(cfg, setting.gpus)
    )


def last_checkpoint(cfg: Config) -> str:
    """The name of the file that is left after the last iteration."""
    if 'max_epochs' in cfg.train_cfg:
        return f'epoch_{cfg.train_cfg.max_epochs}.pth'
    return f'iter_{cfg.train_cfg.max_iters}.pth'


def has_gates(cfg: Config) -> bool:
    """Whether the model has reverse attention, not a rival or none."""
    backbone = cfg.model.backbone
    attention = backbone.get('attention') or {}
    return (
        backbone.type.startswith('ra_mm.')
        and attention.get('type', 'ra_mm.ReverseAttention') == 'ra_mm.ReverseAttention'
    )


def scaling(cfg: Config, gpus: int) -> str | None:
    """What ``--auto-scale-lr`` does to the learning rate, if anything."""
    base = cfg.auto_scale_lr.base_batch_size
    images = cfg.train_dataloader.batch_size * gpus
    if images == base:
        return None
    lr = cfg.optim_wrapper.optimizer.lr
    return f'lr {lr:g} -> {lr * images / base:g} ({images} of {base} images a step)'


def _start(cfg, checkpoint):
    """Options that start a detector or segmenter from an ImageNet run."""
    key = 'model.backbone.init_cfg'
    options = {f'{key}.checkpoint': shown(checkpoint)}
    backbone = cfg.model.backbone
    if cfg.model.backbone.get('init_cfg') is None:
        options[f'{key}.type'] = 'Pretrained'
        backbone.init_cfg = {}
    if not backbone.type.startswith('ra_mm.'):
        options[f'{key}.prefix'] = 'backbone.'
    # mmseg's have the deep stem, ImageNet's the plain one.
    if cfg.model.get('pretrained'):
        options['model.pretrained'] = None
    if backbone.type == 'ResNetV1c':
        options['model.backbone.type'] = 'ResNet'
    elif backbone.get('deep_stem'):
        options['model.backbone.deep_stem'] = False
    return options


def _launch(setting, cfg):
    """How the processes are started, on nodes of at most 8 GPUs."""
    if setting.launcher == 'none':
        return ['python']
    if setting.launcher == 'pytorch':
        return ['torchrun', '--standalone', f'--nproc_per_node={setting.gpus}']
    a_node = min(setting.gpus, GPUS_A_NODE)
    return [
        'srun',
        f'--gres=gpu:{a_node}',
        f'--ntasks={setting.gpus}',
        f'--ntasks-per-node={a_node}',
        f'--cpus-per-task={max(1, cfg.train_dataloader.num_workers)}',
        '--kill-on-bad-exit=1',
        'python',
        '-u',
    ]


def shown(path: Path) -> str:
    """A path as the user would type it: relative below where they are."""
    path, here = Path(path).absolute(), Path.cwd()
    return str(path.relative_to(here) if here in path.parents else path)
