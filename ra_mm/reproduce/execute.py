"""Trains the runs of a plan, one after another, and records them in the ledger."""

import json
import shlex
import shutil
import time
from pathlib import Path
from typing import TextIO

from mmengine.config import Config

from ra_mm.analysis.complexity import SHAPES, count_flops, count_params, paper_params
from ra_mm.engine.checkpoint_io import latest_checkpoint
from ra_mm.fileio import atomic_write
from ra_mm.models import build_model
from ra_mm.reproduce import machine

from . import process
from .initial import write_initial_weights
from .ledger import Ledger
from .logs import collect, find_gpu, fraction_done, read_tail
from .plan import REPO, Job, Run, Setting, display_path, has_gates, make_job
from .progress import Display, format_duration
from .report import write_report

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'ra_mm')
LOG = 'train.log'
MAX_GATE_CLASSES = 8
IMAGES_PER_CLASS = 10  # of which the gates are averaged
POLL_INTERVAL_S, SAVE_INTERVAL_S = 0.2, 30


def new_entry(run: Run, setting: Setting) -> dict:
    """The entry of a run in the ledger before it is started."""
    return dict(
        config=str(run.config.relative_to(REPO)),
        seed=run.seed,
        needs=run.needs.id if run.needs else None,
        status='waiting',
        command=None,
        work_dir=str(setting.work_dir(run).relative_to(setting.folder)),
        scaling=None,
        started=None,  # time.time() minus the seconds of earlier attempts
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
    """Trains the runs of a plan that the ledger does not list as done.

    Args:
        plan: Runs by id, in the order of training.
        setting: What the runs have in common.
        ledger: Has an entry for each run of the plan; it is saved after every
            change.
        lock_file: From :func:`ra_mm.reproduce.process.lock`.
    """

    def __init__(
        self, plan: dict[str, Run], setting: Setting, ledger: Ledger, lock_file: TextIO
    ) -> None:
        self.plan = plan
        self.setting = setting
        self.ledger = ledger
        self.lock_file = lock_file
        self.jobs: dict[str, Job] = {}
        self.display = Display()

    def job(self, run: Run) -> Job:
        if run.id not in self.jobs:
            self.jobs[run.id] = make_job(run, self.setting)
        return self.jobs[run.id]

    def __call__(self) -> list[str]:
        """Train all runs that are not done.

        Returns:
            The ids of the runs that failed.
        """
        versions = machine.package_versions(PACKAGES)
        commit = format_commit(*machine.git_state())
        for run in self.plan.values():
            entry = self.ledger.runs[run.id]
            if entry['status'] == 'done':
                continue
            if run.needs and self.ledger.runs[run.needs.id]['status'] != 'done':
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
        job, work_dir = self.job(run), self.setting.work_dir(run)
        if entry.get('started') and (work_dir / LOG).exists():
            # The tool was killed, and the training may have gone on without it.
            end = (work_dir / LOG).stat().st_mtime
            entry['wall_s'] = max(entry['wall_s'], round(end - entry['started'], 1))
        if job.checkpoint.exists() and collect(work_dir, job.cfg)['validated']:
            if entry['status'] != 'failed':  # killed after its last validation
                self._finish(run, entry, job, 0)
                return
            shutil.rmtree(work_dir)  # trained to the end in vain: start again
            entry['wall_s'] = 0.0
        work_dir.mkdir(parents=True, exist_ok=True)
        if job.file != run.config:
            with atomic_write(job.file) as file:
                file.write(job.cfg.pretty_text)
        if job.initial and not job.initial.exists():
            write_initial_weights(job.cfg, job.initial)

        command, last = list(job.command), latest_checkpoint(work_dir)
        if last:
            command.append('--resume')
        entry.update(
            status='running',
            started=time.time() - entry['wall_s'],
            command=shlex.join(command),
            scaling=job.scaling,
            error=None,
        )
        self.ledger.save()
        self.display.event(
            f'{run.id}: ' + (f'resumed from {Path(last).name}' if last else 'started')
        )
        try:
            status = self._watch(run, entry, command, work_dir / LOG)
        except KeyboardInterrupt:
            self.ledger.save()
            raise
        self._finish(run, entry, job, status)

    def _watch(self, run, entry, command, log):
        """Run the training, keep its time, and return its exit status."""
        seconds_before, start = entry['wall_s'], time.monotonic()
        saved = start
        with process.start(command, log, self.lock_file) as training:
            while training.poll() is None:
                time.sleep(POLL_INTERVAL_S)
                now = time.monotonic()
                entry['wall_s'] = round(seconds_before + now - start, 1)
                if now - saved > SAVE_INTERVAL_S:  # the time survives a SIGKILL
                    self.ledger.save()
                    saved = now
                if self.display.is_due():
                    entries = [self.ledger.runs[run_id] for run_id in self.plan]
                    fraction = fraction_done(log, self.job(run).cfg)
                    self.display.progress(run.id, fraction, entries)
        return training.returncode

    def _finish(self, run, entry, job, status):
        """Record the results of a training that has ended."""
        work_dir = self.setting.work_dir(run)
        device = find_gpu(work_dir / LOG) or machine.cpu_name()
        result = collect(work_dir, job.cfg)
        entry.update(
            hardware=dict(device=device, count=self.setting.gpus),
            curves=result['curves'],
            peak_memory_mb=result['peak_memory_mb'],
            started=None,
        )
        error = result['error']
        if status:
            tail = read_tail(work_dir / LOG)
            error = f'tools/train.py exited with status {status}:\n{tail}'
        if error:
            entry.update(status='failed', error=error)
            self.display.event(f'{run.id}: FAILED: {error}')
            return
        entry.update(
            status='done',
            metrics=result['metrics'],
            checkpoint=str(job.checkpoint.relative_to(self.setting.folder)),
            **count(job.cfg, job.file == run.config),
        )
        if has_gates(job.cfg) and any(
            row['table'] in (2, 3, 'beyond_imagenet') and run.id in row['runs']
            for row in self.ledger.content['rows']
        ):
            self._measure_gates(run, entry, job)
        values = ', '.join(f'{k} {v:.1f}' for k, v in result['metrics'].items())
        duration = format_duration(entry['wall_s'])
        self.display.event(f'{run.id}: done in {duration}: {values}')

    def _measure_gates(self, run, entry, job):
        """Measure the gates of Fig. 5 on some images of the validation split."""
        dataset = job.cfg.val_dataloader.dataset
        images = Path(dataset.data_root, dataset.get('data_prefix') or dataset.split)
        classes = sorted(path.name for path in images.glob('*') if path.is_dir())
        if not classes:
            self.display.event(
                f'{run.id}: gates not measured, since {images} has no class folders'
            )
            return
        folder = self.setting.work_dir(run)
        command = [
            'python',
            *map(
                display_path,
                (REPO / 'tools/visualize_gates.py', job.file, job.checkpoint, images),
            ),
            '--max-images',
            str(IMAGES_PER_CLASS),
            '--out',
            display_path(folder / 'gates'),
            '--classes',
            *classes[:MAX_GATE_CLASSES],
        ]
        log = folder / 'gates.log'
        with process.start(command, log, self.lock_file) as drawing:
            drawing.wait()
        if drawing.returncode:
            self.display.event(f'{run.id}: gates not measured:\n{read_tail(log)}')
            return
        gates = (folder / 'gates/gates.json').read_text(encoding='utf-8')
        entry['gates'] = json.loads(gates)


def count(cfg: Config, is_paper_config: bool) -> dict[str, float]:
    """Count parameters in millions and multiply-accumulates in billions.

    Args:
        cfg: Config of the run.
        is_paper_config: Whether this is an unchanged config of the paper. If
            so, both are counted as in the paper's tables.
    """
    scope = cfg.default_scope
    shape = SHAPES[scope]
    if not is_paper_config:
        steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
        size = (
            steps['CenterCrop'].crop_size
            if scope == 'mmpretrain'
            else steps['Resize'].scale
        )
        shape = (size, size) if isinstance(size, int) else tuple(size[::-1])
    model = build_model(cfg).train().eval()  # train() freezes stages
    params = (
        paper_params(model, 4)
        if is_paper_config and scope == 'mmdet'
        else count_params(model)
    )
    return dict(params=params / 1e6, flops=count_flops(model, shape).total() / 1e9)


def format_commit(commit: str | None, dirty: bool | None) -> str | None:
    """Shorten a commit, and say if tracked files were changed."""
    return commit and commit[:10] + (' (changed)' if dirty else '')
