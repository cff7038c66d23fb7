"""Train the runs of a plan on this machine, and record them in the ledger."""

import json
import os
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from ra_mm.analysis.complexity import count_config
from ra_mm.engine.checkpoint_io import latest_checkpoint
from ra_mm.threads import count_cpus

from . import machine, process
from .display import Display
from .job import display_path, has_gates, make_job
from .ledger import Entry, Ledger, format_duration
from .plan import Run, Setting
from .results import (
    describe_exit,
    find_gpu,
    fraction_done,
    is_validated,
    read_tail,
    record_results,
)

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'ra_mm')
MAX_GATE_CLASSES = 8
IMAGES_PER_CLASS = 10  # of which the gates are averaged
POLL_INTERVAL_S, SAVE_INTERVAL_S = 0.2, 30
# The random numbers, the registries and the imports of configs belong to the process.
ONE_AT_A_TIME = threading.Lock()


def execute(
    plan: Mapping[str, Run],
    setting: Setting,
    ledger: Ledger,
    held: process.Lock,
    jobs: int = 1,
) -> Iterator[Entry]:
    """Train the runs that the ledger does not list as done.

    Args:
        plan: Runs by id, in the order of training.
        setting: What the runs have in common.
        ledger: Has an entry for each run of the plan, which is saved after every
            change.
        held: The lock of the folder.
        jobs: Number of runs side by side.

    Yields:
        The entry of each run that has ended, after it was saved.
    """
    display = Display([ledger.runs[run_id] for run_id in plan])
    waiting = [run for run in plan.values() if ledger.runs[run.id].status != 'done']
    for run in waiting:
        ledger.runs[run.id].status = 'waiting'  # those that failed are tried again
    places, stop = {*range(jobs)}, threading.Event()
    running: dict = {}  # run and place by future
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                for run in [*waiting]:
                    entry, needs = ledger.runs[run.id], run.needs
                    needed = ledger.runs[needs.id].status if needs else 'done'
                    if needed == 'done' and places:
                        env = share_machine(place := places.pop(), jobs, setting.gpus)
                        shared = setting, ledger, display, held, env, stop
                        running[pool.submit(Training(run, *shared))] = run, place
                    elif needs and (needed == 'failed' or needs.id not in plan):
                        entry.status = 'failed'
                        entry.error = f'needs {needs.id}, which is {needed}'
                        display.event(run.id, entry.error)
                        ledger.save_run(run.id)
                        yield entry
                    else:
                        continue
                    waiting.remove(run)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    run, place = running.pop(future)
                    places.add(place)
                    future.result()
                    ledger.save_run(run.id)
                    yield ledger.runs[run.id]
        finally:
            stop.set()


def share_machine(place: int, jobs: int, gpus: int) -> dict[str, str]:
    """The environment of one of the runs side by side: its GPUs, or its cores.

    Args:
        place: Number of the run among those side by side.
        jobs: How many these are. GPUs are shared if there are too few.
        gpus: Number of processes of each.
    """
    if jobs == 1:
        return {}
    count = torch.cuda.device_count()
    if not count:
        threads = max(1, int(count_cpus()) // (jobs * gpus))
        return {'OMP_NUM_THREADS': str(threads)}
    visible = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(count)))
    mine = [visible.split(',')[(place * gpus + i) % count] for i in range(gpus)]
    return {'CUDA_VISIBLE_DEVICES': ','.join(mine)}


class Stopped(Exception):
    """The training was stopped before its end."""


@dataclass
class Training:
    """One run, from its last checkpoint if there is one.

    Attributes:
        run: What is trained.
        setting: What all runs have in common.
        ledger: Its entry of the run is kept up to date.
        display: Prints events and progress.
        held: The lock of the folder.
        env: Environment variables for the training.
        stop: Set to stop the training.
    """

    run: Run
    setting: Setting
    ledger: Ledger
    display: Display
    held: process.Lock
    env: Mapping[str, str]
    stop: threading.Event

    def __post_init__(self) -> None:
        self.entry = self.ledger.runs[self.run.id]
        self.work_dir = self.setting.work_dir(self.run)
        self.log = self.work_dir / 'train.log'

    def __call__(self) -> None:
        """Train the run; afterwards, its entry is 'done' or 'failed'."""
        entry = self.entry
        with ONE_AT_A_TIME:
            job = make_job(self.run, self.setting)
        if entry.started and self.log.exists():
            # The tool was killed, and the training may have gone on without it.
            end = self.log.stat().st_mtime
            entry.wall_s = max(entry.wall_s, round(end - entry.started, 1))
        if job.checkpoint.exists() and is_validated(self.work_dir, job.cfg):
            if not entry.error:  # killed after its last validation
                self._finish(job, 0)
                return
            shutil.rmtree(self.work_dir)  # resuming would only fail again
            entry.wall_s = 0.0
        self.work_dir.mkdir(parents=True, exist_ok=True)
        with ONE_AT_A_TIME:
            job.write_files()
        command, last = [*job.command], latest_checkpoint(str(self.work_dir))
        if last:
            command.append('--resume')
        entry.status, entry.error = 'running', None
        entry.started = time.time() - entry.wall_s
        entry.command, entry.scaling = shlex.join(command), job.scaling
        entry.versions = machine.package_versions(PACKAGES)
        entry.commit = machine.describe_commit()
        self.ledger.save_run(self.run.id)
        self._show(f'resumed from {Path(last).name}' if last else 'started')
        self._finish(job, self._wait_for(command, job.cfg))

    def _show(self, text):
        self.display.event(self.run.id, text)

    def _wait_for(self, command, cfg):
        """Run the training, keep its time, and return its exit status."""
        entry, start = self.entry, time.monotonic()
        seconds_before, saved = entry.wall_s, start
        with process.start(command, self.log, self.held, self.env) as training:
            while training.poll() is None:
                is_stopped = self.stop.wait(POLL_INTERVAL_S)
                now = time.monotonic()
                entry.wall_s = round(seconds_before + now - start, 1)
                if is_stopped or now - saved > SAVE_INTERVAL_S:  # survives a SIGKILL
                    entry.progress = fraction_done(self.log, cfg)
                    self.ledger.save_run(self.run.id)
                    self.held.renew()
                    saved = now
                if is_stopped:
                    raise Stopped
                if self.display.is_due():
                    entry.progress = fraction_done(self.log, cfg)
                    self.display.progress(self.run.id, entry.progress)
        return training.returncode

    def _finish(self, job, status):
        """Record the results of a training that has ended."""
        entry = self.entry
        record_results(entry, self.work_dir, job.cfg)
        device = find_gpu(self.log) or machine.cpu_name()
        entry.hardware = dict(device=device, count=self.setting.gpus)
        entry.started = None
        if status:
            entry.error = describe_exit(status, self.log)
        if entry.error:
            entry.status, entry.metrics = 'failed', {}
            self._show(f'FAILED: {entry.error}')
            return
        entry.status = 'done'
        entry.checkpoint = str(job.checkpoint.relative_to(self.setting.folder))
        with ONE_AT_A_TIME:
            entry.params, entry.flops = count_config(job.cfg, job.is_paper_config)
        if self.run.shows_gates and has_gates(job.cfg):
            self._measure_gates(job)
        values = ', '.join(f'{k} {v:.1f}' for k, v in entry.metrics.items())
        self._show(f'done in {format_duration(entry.wall_s)}: {values}')

    def _measure_gates(self, job):
        """Measure the gates of Fig. 5 on some images of the validation split."""
        dataset = job.cfg.val_dataloader.dataset
        images = Path(dataset.data_root, dataset.get('data_prefix') or dataset.split)
        classes = sorted(path.name for path in images.glob('*') if path.is_dir())
        if not classes:
            self._show(f'gates not measured, since {images} has no class folders')
            return
        out = self.work_dir / 'gates'
        tool = machine.REPO / 'tools/visualize_gates.py'
        command = [
            'python',
            *map(display_path, (tool, job.file, job.checkpoint, images)),
            *('--out', display_path(out), '--max-images', str(IMAGES_PER_CLASS)),
            *('--classes', *classes[:MAX_GATE_CLASSES]),
        ]
        log = self.work_dir / 'gates.log'
        with process.start(command, log, self.held, self.env) as drawing:
            while drawing.poll() is None:
                if self.stop.wait(POLL_INTERVAL_S):
                    raise Stopped
        if drawing.returncode:
            self._show(f'gates not measured:\n{read_tail(log)}')
        else:
            gates = (out / 'gates.json').read_text(encoding='utf-8')
            self.entry.gates = json.loads(gates)
