"""Keep what was requested, in ``ledger.json``, and each run, in a file of its own.

A run may be trained on another machine: its process alone writes its file
``entries/<id>.json``, and the ledger is their sum. This module alone reads and
writes these files. Their keys are the fields of the classes below.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write

from . import paper
from .finetune import identify
from .plan import Run, Setting

VERSION = 2  # 1 had the runs in ledger.json
COUNTED = ('params', 'flops')  # known before a run is done


@dataclass
class Entry:
    """What is known of a run.

    Attributes:
        config: The row's config, relative to the checkout or the package's
            ``.mim``.
        seed: Random seed.
        needs: Id of the run whose backbone this run starts from.
        status: 'waiting', 'running', 'done' or 'failed'.
        command: The command line that trained it.
        work_dir: Its folder, relative to that of the ledger.
        scaling: How the learning rate was scaled, if it was.
        started: While it is running, the time (seconds since 1970) of its
            start, minus the seconds of earlier attempts.
        wall_s: Seconds of training, all attempts together.
        progress: The fraction of the training that is done.
        peak_memory_mb: GPU memory, if it was trained on a GPU.
        hardware: ``device``, and the ``count`` of processes.
        versions: Versions of packages by name.
        commit: Commit of ra_mm's checkout, if it is one.
        params: Parameters in millions.
        flops: Multiply-accumulates in billions.
        metrics: Metrics of the last validation, in percent.
        curves: Lists of [step, value] by name.
        checkpoint: The last checkpoint, relative to the folder of the ledger.
        gates: Result of :func:`ra_mm.analysis.gates.measure_gates`, if measured.
        error: Why it failed.
    """

    config: str
    seed: int
    needs: str | None = None
    status: str = 'waiting'
    command: str | None = None
    work_dir: str | None = None
    scaling: str | None = None
    started: float | None = None
    wall_s: float = 0.0
    progress: float = 0.0
    peak_memory_mb: float | None = None
    hardware: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    commit: str | None = None
    params: float | None = None
    flops: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    checkpoint: str | None = None
    gates: dict[str, Any] | None = None
    error: str | None = None

    def value(self, metric: str) -> float | None:
        """The value of a metric, hours or a count; None if it is not known."""
        hours = self.wall_s / 3600 or None
        known = dict(hours=hours, params=self.params, flops=self.flops) | self.metrics
        value = known.get(metric)
        return value if value is not None and math.isfinite(value) else None

    def curve(self, key: str) -> list[list[float]]:
        """The finite points of a logged curve."""
        points = self.curves.get(key, [])
        return [[x, y] for x, y in points if y is not None and math.isfinite(y)]


@dataclass
class RequestedRow:
    """A row of a table that was requested.

    Attributes:
        table, group, name: As in :class:`reproduction.paper.Row`.
        paper: The numbers of the paper as it prints them, by metric. None for
            the user's data.
        misprints: By metric, what is wrong with the printed number.
        runs: Ids of its runs, in the order of the seeds.
    """

    table: int | str
    group: str
    name: str
    paper: dict[str, str] = field(default_factory=dict)
    misprints: dict[str, str] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[int | str, str, str]:
        return self.table, self.group, self.name


@dataclass
class Ledger:
    """The rows that were requested and the entries of their runs.

    Attributes:
        folder: The folder of ``ledger.json``.
        scale: 'full' or 'demo'; None before the first request.
        data: Name of the folder of the user's dataset, if any.
        weights: Name and SHA-256 of the file that fine-tuning starts from, if any.
        options: Changes to all configs.
        seeds: Largest number of seeds of a request.
        rows: In the order of the tables.
        runs: By id.
    """

    folder: Path
    scale: str | None = None
    data: str | None = None
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seeds: int = 0
    rows: list[RequestedRow] = field(default_factory=list)
    runs: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> 'Ledger':
        """Read the ledger of a folder; an empty one if there is no file.

        Raises:
            UserError: If a file is not that of a ledger of this version or the
                one before.
        """
        path = folder / 'ledger.json'
        if not path.exists():
            return cls(folder)
        remedy = 'choose another folder with --out, or delete this file'
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            version = content.pop('version')
            if version not in (1, VERSION):
                text = f'this tool reads and writes version {VERSION}: {remedy}'
                raise UserError(f'{path} has version {version!r}, {text}')
            rows = [RequestedRow(**row) for row in content.pop('rows', [])]
            runs = content.pop('runs', {})
            for path in sorted(folder.glob('entries/*.json')):
                runs[path.stem] = json.loads(path.read_text(encoding='utf-8'))
            runs = {run_id: Entry(**run) for run_id, run in runs.items()}
            return cls(folder, **content, rows=rows, runs=runs)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            text = f'is not the ledger of a reproduction ({type(e).__name__}: {e})'
            raise UserError(f'{path} {text}: {remedy}') from e

    def save(self) -> None:
        """Write ``ledger.json``, and the files of those runs that have none."""
        for run_id in self.runs:
            if not self._file(run_id).exists():
                self.save_run(run_id)
        content = {'version': VERSION} | vars(self)
        del content['folder'], content['runs']
        self._write(self.folder / 'ledger.json', content)

    def save_run(self, run_id: str) -> None:
        """Write the file of a run."""
        self._write(self._file(run_id), vars(self.runs[run_id]))

    def _file(self, run_id):
        return self.folder / f'entries/{run_id}.json'

    def _write(self, path, content):
        """Write a file atomically; if it cannot be written, the previous one stays."""
        try:
            with atomic_write(path) as file:
                json.dump(content, file, indent=1, allow_nan=False, default=vars)
        except OSError as e:
            text = f'{path} cannot be written: {e.strerror}. The previous version is'
            advice = 'intact, and the same command continues from it'
            raise UserError(f'{text} {advice}') from e

    def request(
        self, setting: Setting, rows: list[paper.Row], seeds: int, plan: dict[str, Run]
    ) -> None:
        """Add rows and runs to those of earlier commands.

        Raises:
            UserError: If earlier commands had another scale, dataset, other weights
                or options: these are not mixed in a ledger. The dataset and the
                weights may lie elsewhere now.
        """
        data = setting.data.root.name if setting.data else None
        weights = identify(setting.weights) if setting.weights else None
        options = json.loads(json.dumps(setting.options))  # as it is read again
        for flag, known, value in (
            ('--scale', self.scale, setting.scale),
            ('--data', self.data, data),
            ('--weights', self.weights, weights),
            ('--cfg-options', self.options, options),
        ):
            if self.scale and known != value:
                text = f'{flag} {known}, not {value}: choose another folder with --out'
                raise UserError(f'{self.folder / "ledger.json"} was made with {text}')
        self.scale, self.options = setting.scale, options
        self.data, self.weights = data, weights
        self.seeds = max(self.seeds, seeds)
        for run in plan.values():
            entry = Entry(
                config=str(run.config.relative_to(paper.CONFIGS.parent)),
                seed=run.seed,
                needs=run.needs.id if run.needs else None,
                work_dir=str(setting.work_dir(run).relative_to(setting.folder)),
            )
            self.runs.setdefault(run.id, entry)
        by_key = {row.key: row for row in self.rows}
        for row in rows:
            requested = RequestedRow(row.table, row.group, row.name)
            if not data:
                requested.paper = {k: str(v) for k, v in row.paper.items()}
                requested.misprints = row.misprints
            requested = by_key.setdefault(requested.key, requested)
            runs = (Run(row.config, n, variant=row.variant) for n in range(seeds))
            ids = {*requested.runs, *(run.id for run in runs)}
            requested.runs = sorted(ids, key=lambda run_id: self.runs[run_id].seed)
        order = [(row.table, row.group, row.name) for row in paper.all_rows()]
        self.rows = sorted(by_key.values(), key=lambda row: order.index(row.key))

    def entries(self, row: RequestedRow, status: str | None = None) -> list[Entry]:
        """The entries of a row's runs, or of those with a status."""
        entries = [self.runs[run_id] for run_id in row.runs if run_id in self.runs]
        return [entry for entry in entries if status in (None, entry.status)]

    def seconds_of_others(self, run_id: str) -> list[float]:
        """What the finished runs of the same row with other seeds took."""
        name = run_id.rpartition('-seed')[0]
        return [
            entry.wall_s
            for other, entry in self.runs.items()
            if other.rpartition('-seed')[0] == name and other != run_id
            if entry.status == 'done'
        ]


def format_duration(seconds: float) -> str:
    """Format as '12 s', '3.1 min' or '12.7 h'."""
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'
