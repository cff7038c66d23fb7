"""Measure everything of interest on a GPU, in one run within a time budget.

The parts run in order of importance, and the report is written after each of
their results. A part that no longer fits into the budget is skipped, and one
that fails is recorded; the others run.
"""

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.cases import VARIANTS, Case
from benchmarks.exactness import tail_errors
from benchmarks.measuring import measure_case
from benchmarks.recording import write_results
from ra_mm.errors import UserError


@dataclass(frozen=True)
class ReportPart:
    """One part of the report.

    Attributes:
        name (str): Its name, for ``--parts``.
        estimate_s (float): Its time on an H100, estimated; it is skipped where less
            than this is left, and stopped after twice this and a minute.
        results (callable): Called with a function that reports progress and
            the seconds that remain; yields the results, one dict each.
    """

    name: str
    estimate_s: float
    results: Callable[[Callable[[str], None], float], Iterator[dict]]


def report_parts(device: str, tiny: bool = False) -> list[ReportPart]:
    """List the parts in order of importance.

    Args:
        device (str): 'cpu' or 'cuda'.
        tiny (bool): Use small models and inputs without compilation, to try
            the report in seconds. Defaults to False.
    """

    def steps(name, estimate_s, variants, what='train', model='resnet50', **settings):
        settings = dict(precision='amp', layout='nhwc', batch=256, size=224) | settings
        if tiny:
            settings |= dict(batch=2, size=32 if what in ('train', 'infer') else 64)
            model = 'resnet18' if what in ('train', 'infer') else model
            variants = [v for v in variants if not VARIANTS[v].compiles]
        case = Case(what, model, device, **settings)

        def results(progress, left):
            rounds = 2 if tiny else 7
            yield measure_case(case, variants, rounds, progress, 0.8 * left, True)

        return ReportPart(name, estimate_s, results)

    shape = (2, 8, 6, 6) if tiny else (16, 256, 28, 28)
    errors = partial(tail_errors, device, shape)
    eager = ['ra-naive', 'ra-fused_sum', 'ra-fused']
    chosen = ['ra', 'plain-chosen']
    main = ['ra-fused_sum', *chosen]
    graphs = [*main, 'ra-naive', 'ra+compile', 'plain+compile']
    graphs += ['ra+graphs', 'plain+graphs']
    detector = dict(what='detector', precision='tf32', layout='nchw', batch=2, size=800)
    return [
        ReportPart('exactness', 15, lambda progress, left: errors()),
        steps('train-256', 180, ['se', 'cbam', *eager, *chosen]),
        steps('train-32', 150, graphs, batch=32),
        steps('detector', 200, ['ra-naive', *main], **detector),
        steps('train-8', 150, graphs, batch=8),
        steps('segmenter', 180, main, what='segmenter', batch=4, size=512),
        steps('train-256-nchw', 150, main, layout='nchw'),
        steps('resnet18-256', 80, main, model='resnet18'),
        steps('resnet101-256', 240, main, model='resnet101'),
        steps('mobilenetv2-256', 150, main, model='mobilenetv2'),
        steps('train-fp32', 150, main, precision='fp32', layout='nchw'),
        steps('infer-256', 20, ['se', 'cbam', *eager], 'infer'),
        steps('infer-1', 15, ['se', 'cbam', *eager], 'infer', batch=1),
    ]


def write_gpu_report(
    out: Path,
    todo: list[ReportPart],
    minutes: float,
    environment: dict,
    progress: Callable[[str], None],
    earlier: dict | None = None,
) -> dict:
    """Run the parts, and write the report after each of their results.

    Args:
        out (Path): The JSON file.
        todo (list[ReportPart]): What to run, in this order.
        minutes (float): The time budget.
        environment (dict): Recorded as it is, or that of the earlier report.
        progress (callable): Called with a line of text about the state.
        earlier (dict, optional): An earlier report from the same machine and
            commit, whose finished parts are kept and not run again.

    Raises:
        UserError: If the earlier report is from another machine or commit.

    Returns:
        dict: ``environment``, ``minutes`` and ``parts``, one dict for each
        part: ``name``, ``status`` ('done', 'skipped' or 'failed'), ``reason``
        where it is not done, ``seconds`` and ``results``. A failed part keeps
        the results before its failure.
    """
    begin = time.monotonic()
    report = dict(environment=environment, minutes=minutes, parts=[])
    if earlier:
        for key in ('gpu', 'torch', 'commit'):
            old, new = earlier['environment'].get(key), environment.get(key)
            if old != new:
                raise UserError(f'{out}: is a report for {key} {old}, not {new}')
        done = [part for part in earlier['parts'] if part['status'] == 'done']
        report.update(parts=done, environment=earlier['environment'])
    finished = {p['name'] for p in report['parts']}
    for part in (part for part in todo if part.name not in finished):
        left = 60 * minutes - (time.monotonic() - begin)
        entry = dict(name=part.name, status='running', seconds=0.0, results=[])
        report['parts'].append(entry)
        if left < part.estimate_s:
            reason = f'needs about {part.estimate_s:.0f} s, {max(left, 0):.0f} s left'
            entry.update(status='skipped', reason=reason)
        else:
            progress(f'{part.name}: starts, {left:.0f} s left')
            limit_s = min(left, 60 + 2 * part.estimate_s)
            save = partial(write_results, report, out)
            _run_part(part, entry, limit_s, progress, save)
        progress(f'{part.name}: {entry["status"]} {entry.get("reason", "")}')
        write_results(report, out)
    return report


def _run_part(part, entry, limit_s, progress, save):
    start = time.monotonic()

    def report(text):
        progress(f'{part.name}: {text}')

    try:
        with time_limit(limit_s):
            for result in part.results(report, limit_s):
                entry['results'].append(result)
                entry['seconds'] = round(time.monotonic() - start, 1)
                save()
        entry['status'] = 'done'
    except (Exception, OutOfTime) as e:  # whatever it is, the other parts still run
        entry.update(status='failed', reason=f'{type(e).__name__}: {e}'[:2000])
    entry['seconds'] = round(time.monotonic() - start, 1)
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # some errors of CUDA stay for the process
            torch.cuda.empty_cache()


class OutOfTime(BaseException):
    """A part is stopped. No Exception: compilers and their fallbacks catch those."""


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raise OutOfTime in the block after this many seconds.

    Works in the main thread only, and between Python instructions.
    """

    def stop(*_):
        raise OutOfTime(f'stopped after {limit_s:.0f} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
