"""Training the runs of a plan, one after another, and reading their logs."""

import contextlib
import ctypes
import fcntl
import importlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from ra_mm.analysis.complexity import SHAPES, count_flops, count_params, paper_params
from ra_mm.engine.checkpoint_io import latest_checkpoint
from ra_mm.fileio import atomic_write
from ra_mm.models import build_model

from .ledger import Ledger
from .plan import REPO, Job, Run, Setting, has_gates, make_job, shown
from .report import write_report

# ra_mm.reproduce.paper.metrics() by the toolboxes' names, the first of a toolbox is
# what a run cannot be done without. mmdet's are fractions.
METRICS = dict(
    mmpretrain={'accuracy/top1': 'top1', 'accuracy/top5': 'top5'},
    mmdet={
        'coco/bbox_mAP': 'AP',
        'coco/bbox_mAP_50': 'AP50',
        'coco/bbox_mAP_s': 'APs',
        'coco/bbox_mAP_m': 'APm',
        'coco/bbox_mAP_l': 'APl',
        'coco/segm_mAP': 'AP_mask',
    },
    mmseg={'mIoU': 'mIoU'},
)
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'ra_mm')
LOG = 'train.log'
CLASSES = 8  # whose gates are drawn
TAIL = 20  # lines of the log of a failed run
POINTS = 300  # of a curve
PATIENCE = 10.0  # seconds until a training whose parent was killed has ended
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def lock(folder: Path, patience: float | None = None) -> Iterator[int]:
    """Keep others from training in the same folder.

    Args:
        folder (Path): To be locked.
        patience (float, optional): Seconds to wait. Defaults to ``PATIENCE``.

    Yields:
        int: The file descriptor that holds the lock. Given to a child
        process, the lock lasts until that has ended too.

    Raises:
        ValueError: If another process has the lock.
    """
    with open(folder / '.lock', 'w') as file:
        end = time.monotonic() + (PATIENCE if patience is None else patience)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ValueError(
                        f'another tools/reproduce.py, or a training that it '
                        f'started, is at work in {folder}: wait for it, stop '
                        'it, or choose another folder with --out'
                    ) from None
                time.sleep(0.2)
        yield file.fileno()


def new_entry(run: Run, setting: Setting) -> dict:
    """A run in the ledger, before it is started."""
    return dict(
        config=str(run.config.relative_to(REPO)),
        seed=run.seed,
        needs=run.needs.id if run.needs else None,
        status='waiting',
        command=None,
        work_dir=str(setting.work_dir(run).relative_to(setting.folder)),
        scaling=None,
        wall_s=0.0,
        peak_memory_mb=None,
        hardware=None,
        versions=None,
        commit=None,
        params=None,
        flops=None,
        metrics={},
        curves={},
        checkpoint=None,
        gates=None,
        error=None,
    )


class Executor:
    """Trains what the plan says and the ledger does not say is done.

    Args:
        plan (dict[str, Run]): In order.
        setting (Setting): What the runs have in common.
        ledger (Ledger): Has an entry for each run of the plan; it is saved
            with every change.
        lock_fd (int): From :func:`lock`.
    """

    def __init__(
        self, plan: dict[str, Run], setting: Setting, ledger: Ledger, lock_fd: int
    ) -> None:
        self.plan = plan
        self.setting = setting
        self.ledger = ledger
        self.lock_fd = lock_fd
        self.jobs = {}
        self.display = Display(self)

    def job(self, run: Run) -> Job:
        if run.id not in self.jobs:
            self.jobs[run.id] = make_job(run, self.setting)
        return self.jobs[run.id]

    def __call__(self) -> list[str]:
        """Train, in order, whatever is not done.

        Returns:
            list[str]: The ids of the runs that failed.
        """
        versions, commit = _versions(), _commit()
        for run in self.plan.values():
            entry = self.ledger.runs[run.id]
            if entry['status'] == 'done':
                continue
            needed = run.needs and self.ledger.runs[run.needs.id]
            if needed and needed['status'] != 'done':
                entry.update(
                    status='failed', error=f'needs {run.needs.id}, which has failed'
                )
                self.display.event(f'{run.id}: {entry["error"]}')
            else:
                entry.update(versions=versions, commit=commit)
                self._train(run, entry)
            self.ledger.save()
            write_report(self.setting.folder)
        return [
            run_id
            for run_id in self.plan
            if self.ledger.runs[run_id]['status'] == 'failed'
        ]

    def _train(self, run, entry):
        job = self.job(run)
        work_dir = self.setting.work_dir(run)
        if (
            job.checkpoint.exists()  # it ran to its end before
            and collect(work_dir, job.cfg)['validated']
        ):
            if entry['status'] != 'failed':
                self._finish(run, entry, job, 0)
                return
            shutil.rmtree(work_dir)  # resuming would change nothing
            entry['wall_s'] = 0.0
        work_dir.mkdir(parents=True, exist_ok=True)
        command = list(job.command)
        if job.file != run.config:
            with atomic_write(job.file) as file:
                file.write(job.cfg.pretty_text)
        last = latest_checkpoint(work_dir)
        if last:
            command.insert(
                command.index('--cfg-options')
                if '--cfg-options' in command
                else len(command),
                '--resume',
            )
        entry.update(
            status='running',
            command=shlex.join(command),
            scaling=job.scaling,
            error=None,
        )
        self.ledger.save()
        self.display.event(
            f'{run.id}: ' + (f'resumed from {Path(last).name}' if last else 'started')
        )

        before, start = entry['wall_s'], time.monotonic()
        saved = start
        try:
            with self._process(command, work_dir / LOG) as process:
                while process.poll() is None:
                    time.sleep(0.2)
                    now = time.monotonic()
                    entry['wall_s'] = round(before + now - start, 1)
                    if now - saved > 30:  # survives a SIGKILL
                        self.ledger.save()
                        saved = now
                    self.display.update(run)
        except KeyboardInterrupt:
            self.ledger.save()
            raise
        self._finish(run, entry, job, process.returncode)

    @contextlib.contextmanager
    def _process(self, command, log):
        path = os.path.dirname(sys.executable)
        env = dict(os.environ, PATH=f'{path}{os.pathsep}{os.environ["PATH"]}')

        def die_with_parent():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        with open(log, 'ab') as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=env,
                pass_fds=(self.lock_fd,),
                preexec_fn=die_with_parent if sys.platform == 'linux' else None,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()

    def _finish(self, run, entry, job, status):
        work_dir = self.setting.work_dir(run)
        entry['hardware'] = _hardware(work_dir / LOG, self.setting.gpus)
        result = collect(work_dir, job.cfg)
        entry.update(curves=result['curves'], peak_memory_mb=result['peak_memory_mb'])
        error = result['error']
        if status:
            error = f'tools/train.py ended with status {status}:\n' + _tail(
                work_dir / LOG
            )
        if error:
            entry.update(status='failed', error=error)
            self.display.event(f'{run.id}: FAILED: {error}')
            return
        entry.update(
            status='done',
            metrics=result['metrics'],
            checkpoint=str(job.checkpoint.relative_to(self.setting.folder)),
        )
        entry.update(count(job.cfg, job.file == run.config))
        if has_gates(job.cfg) and any(
            row['table'] in (2, 3) and run.id in row['runs']
            for row in self.ledger.content['rows']
        ):
            self._measure_gates(run, entry, job)
        values = ', '.join(f'{k} {v:.1f}' for k, v in result['metrics'].items())
        self.display.event(f'{run.id}: done in {duration(entry["wall_s"])}: {values}')

    def _measure_gates(self, run, entry, job):
        """Fig. 5, on some images of the validation split."""
        dataset = job.cfg.val_dataloader.dataset
        images = Path(dataset.data_root, dataset.get('data_prefix') or dataset.split)
        classes = sorted(p.name for p in images.glob('*') if p.is_dir())
        if not classes:
            self.display.event(
                f'{run.id}: no gates by class, since {images} has no class folders'
            )
            return
        folder = self.setting.work_dir(run)
        command = [
            'python',
            shown(REPO / 'tools/visualize_gates.py'),
            shown(job.file),
            shown(job.checkpoint),
            shown(images),
            '--max-images',
            '10',
            '--out',
            shown(folder / 'gates'),
            '--classes',
            *classes[:CLASSES],
        ]
        with self._process(command, folder / 'gates.log') as process:
            process.wait()
        if process.returncode:
            self.display.event(
                f'{run.id}: its gates could not be drawn:\n'
                + _tail(folder / 'gates.log')
            )
            return
        text = (folder / 'gates/gates.json').read_text(encoding='utf-8')
        entry['gates'] = json.loads(text)


def collect(work_dir: Path, cfg: Config) -> dict:
    """Read what a run has logged, over all its restarts.

    Args:
        work_dir (Path): Of the run.
        cfg (Config): Of the run.

    Returns:
        dict: ``metrics`` of the last validation in percent, ``curves``,
        ``peak_memory_mb`` and ``error``, all as in the ledger; and whether it
        was ``validated`` after its last iteration.
    """
    train, val = {}, {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut short by a SIGKILL
            (train if 'loss' in entry else val)[entry['step']] = entry
    # What was logged after the checkpoint that a restart began from is
    # replaced step by step, since the restart logs the same steps.
    names = METRICS[cfg.default_scope]
    factor = 100 if cfg.default_scope == 'mmdet' else 1
    curves = {
        name: _thin(
            [
                (step, entry[name])
                for step, entry in sorted(train.items())
                if name in entry
            ]
        )
        for name in sorted({name for entry in train.values() for name in entry})
        if name in ('loss', 'lr', 'temp') or name.startswith('G_')
    }
    for key, name in names.items():
        points = [
            (step, entry[key] * factor)
            for step, entry in sorted(val.items())
            if _usable(entry.get(key))
        ]
        if points:
            curves[f'val/{name}'] = _thin(points)

    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    last = val.get(length, {})
    metrics = {
        name: round(last[key] * factor, 4)
        for key, name in names.items()
        if _usable(last.get(key))
    }
    loss = train[max(train)]['loss'] if train else None
    first = next(iter(names))
    error = None
    if loss is not None and not math.isfinite(loss):
        error = f'the training has diverged: its last loss is {loss}'
    elif not last:
        error = 'it was not validated after its last iteration'
    elif names[first] not in metrics:
        error = f'its last validation has no {first}' + (
            ': the model finds nothing' if 'coco' in first else ''
        )
    memory = [e['memory'] for e in train.values() if 'memory' in e]
    return dict(
        validated=bool(last),
        metrics={} if error else metrics,
        curves=curves,
        peak_memory_mb=max(memory, default=None),
        error=error,
    )


def _usable(value):
    """Whether it is a number; COCO's -1 means that there was nothing."""
    return value is not None and math.isfinite(value) and value >= 0


def _thin(points):
    """At most ``POINTS`` finite points, the last one kept."""
    points = [
        [step, float(f'{value:.5g}')] for step, value in points if math.isfinite(value)
    ]
    stride = math.ceil(len(points) / POINTS) or 1
    return points[::-1][::stride][::-1]


def _tail(log):
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    return '\n'.join(lines[-TAIL:])


def count(cfg: Config, published: bool) -> dict[str, float]:
    """Parameters in millions and multiply-accumulates in billions.

    Args:
        cfg (Config): Of the run.
        published (bool): Whether it is a config of the paper as it stands:
            then both are counted as its tables count.
    """
    scope = cfg.default_scope
    shape = SHAPES[scope]
    if not published:
        steps = {s.type: s for s in cfg.test_dataloader.dataset.pipeline}
        size = (
            steps['CenterCrop'].crop_size
            if scope == 'mmpretrain'
            else steps['Resize'].scale
        )
        shape = (size, size) if isinstance(size, int) else tuple(size[::-1])
    model = build_model(cfg)
    params = (
        paper_params(model, 4)
        if published and scope == 'mmdet'
        else count_params(model)
    )
    return dict(params=params / 1e6, flops=count_flops(model, shape).total() / 1e9)


def _versions():
    return dict(
        python=platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in PACKAGES},
    )


def _commit():
    try:
        return subprocess.run(
            ['git', 'describe', '--always', '--dirty= (changed)'],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware(log, count):
    """The GPU as mmengine has logged it, where the run was; or the CPU."""
    text = log.read_text(encoding='utf-8', errors='replace')
    gpu = re.search(r'^ *GPU [\d,]+: (.+)$', text, re.M)
    if gpu:
        return dict(device=gpu[1].strip(), count=count)
    info = Path('/proc/cpuinfo')
    name = info.is_file() and re.search(r'model name\s*: (.+)', info.read_text())
    return dict(
        device=name[1].strip() if name else platform.processor() or 'CPU', count=count
    )


def duration(seconds: float) -> str:
    """As 12 s, 3:05 min or 2:05 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    if seconds < 3600:
        return f'{seconds // 60}:{seconds % 60:02} min'
    return f'{seconds // 3600}:{seconds // 60 % 60:02} h'


class Display:
    """Says what happens: a line an event, and how far it is."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.tty = sys.stdout.isatty()
        self.interval = 1 if self.tty else 600
        self.shown = time.monotonic()

    def event(self, text: str) -> None:
        clear = '\r\033[K' if self.tty else ''
        print(f'{clear}{time.strftime("%H:%M:%S")} {text}', flush=True)

    def update(self, run: Run) -> None:
        """Say how far all is while ``run`` is trained, if it is time to."""
        now = time.monotonic()
        if now - self.shown < self.interval:
            return
        self.shown = now
        executor = self.executor
        part = progress(executor.setting.work_dir(run) / LOG, executor.job(run).cfg)
        states = [executor.ledger.runs[i]['status'] for i in executor.plan]
        eta = self.remaining(run, part)
        text = (
            f'{states.count("done")} of {len(states)} runs done'
            + (f', {states.count("failed")} failed' if 'failed' in states else '')
            + f'; {run.id} at {part:.0%}'
            + (f', about {duration(eta)} left for all' if eta is not None else '')
        )
        if self.tty:
            print(f'\r\033[K{text}', end='', flush=True)
        else:
            self.event(text)

    def remaining(self, run: Run, part: float) -> float | None:
        """Seconds until all is done, by what runs took so far.

        A run is expected to take as long as others of its kind (classifier,
        detector, segmenter), in proportion to its schedule; one of a kind that
        has not been seen, as long as the others on average.
        """
        costs, ledger = {}, self.executor.ledger
        for other in self.executor.plan.values():
            entry = ledger.runs[other.id]
            done = 1 if entry['status'] == 'done' else 0
            if other is run:
                done = part
            if done > 0.02:
                kind, length = self._kind(other)
                costs.setdefault(kind, []).append((entry['wall_s'] / done, length))
        if not costs:
            return None
        totals = [total for kind in costs.values() for total, _ in kind]
        left = 0.0
        for other in self.executor.plan.values():
            if ledger.runs[other.id]['status'] not in ('waiting', 'running'):
                continue
            kind, length = self._kind(other)
            if kind in costs:
                known = costs[kind]
                total = sum(t for t, _ in known) / sum(n for _, n in known) * length
            else:
                total = sum(totals) / len(totals)
            left += total * (1 - part if other is run else 1)
        return left

    def _kind(self, run):
        cfg = self.executor.job(run).cfg
        loop = cfg.train_cfg
        return (cfg.model.type, cfg.model.backbone.get('depth')), (
            loop.get('max_epochs') or loop.max_iters
        )


def progress(log: Path, cfg: Config) -> float:
    """The part of a run's iterations that is done, by the log's last line."""
    with open(log, 'rb') as file:
        file.seek(max(0, os.path.getsize(log) - 20000))
        text = file.read().decode(errors='replace')
    found = re.findall(
        r'(?:Epoch\(train\)\s*\[\s*(\d+)\]|Iter\(train\)\s*)'
        r'\[\s*(\d+)/(\d+)\]',
        text,
    )
    if not found:
        return 0.0
    epoch, i, of = found[-1]
    part = int(i) / int(of)
    if epoch:
        part = (int(epoch) - 1 + part) / cfg.train_cfg.max_epochs
    return part
