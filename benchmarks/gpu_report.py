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
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.exactness import tail_errors
from benchmarks.measuring import measure_case
from benchmarks.recording import write_results
from ra_mm.errors import UserError

EAGER_PATHS = ['reference', 'fused_sum', 'fused']
RA = ['ra-naive', 'ra-fused_sum', 'ra-fused', 'ra-compiled']
# The compiled path takes seconds for each, so the most used come first.
COMPILED_SETTINGS = [
    ('bf16', 'nhwc', True),
    ('fp32', 'nchw', True),
    ('fp16', 'nhwc', True),
    ('fp32', 'nhwc', False),
    ('bf16', 'nchw', True),
    ('bf16', 'nhwc', False),
]


@dataclass(frozen=True)
class ReportPart:
    """One part of the report.

    Attributes:
        name (str): Its name, for ``--parts``.
        estimate_s (float): Its time on an H100; it is skipped where less than
            this is left, and stopped after twice this and a minute.
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

    def exactness(name, estimate_s, paths, settings=None):
        shape = (2, 8, 6, 6) if tiny else (16, 256, 28, 28)
        return ReportPart(
            name,
            estimate_s,
            lambda progress, left: tail_errors(device, paths, shape, settings),
        )

    def steps(name, estimate_s, variants, what='train', model='resnet50', **settings):
        settings = dict(precision='amp', layout='nhwc', batch=256, size=224) | settings
        if tiny:
            settings |= dict(batch=2, size=64 if what == 'detector' else 32)
            if what != 'detector':
                model = 'resnet18'
            variants = [v for v in variants if v != 'ra' and 'compile' not in v]
        case = Case(what, model, device, **settings)

        def results(progress, left):
            yield measure_case(
                case,
                variants,
                rounds=2 if tiny else 7,
                progress=progress,
                limit_s=0.8 * left,
                keep_going=True,
            )

        return ReportPart(name, estimate_s, results)

    every = ['se', 'cbam', *RA, 'ra']
    main = ['se', 'ra-naive', 'ra-fused', 'ra-compiled', 'ra']
    eager = ['se', 'cbam', 'ra-naive', 'ra-fused']
    compiled = ['ra-fused', 'plain+compile', 'ra+compile']
    detector = dict(what='detector', precision='tf32', layout='nchw', batch=2, size=800)
    parts = [
        exactness('exactness', 15, EAGER_PATHS),
        steps('train-nhwc', 80, every),
        steps('train-nchw', 70, every, layout='nchw'),
        steps('tails-nhwc', 25, RA, 'tail'),
        steps('tails-nchw', 25, RA, 'tail', layout='nchw'),
        steps('detector', 70, [*RA, 'ra'], **detector),
        exactness('exactness-compiled', 40, ['compiled'], COMPILED_SETTINGS),
        steps('compiled-nhwc', 100, compiled),
        steps('train-fp32', 50, main[1:], precision='fp32', layout='nchw'),
        steps('infer-256', 20, eager, 'infer'),
        steps('infer-1', 15, eager, 'infer', batch=1),
        steps('train-batch32', 35, main, batch=32),
        steps('train-resnet18', 35, main, model='resnet18'),
        steps('train-mobilenetv2', 40, main, model='mobilenetv2'),
        steps('train-resnet101', 55, main, model='resnet101'),
        steps('compiled-nchw', 90, compiled, layout='nchw'),
        steps('train-tf32', 35, main[1:], precision='tf32'),
    ]
    if tiny:  # these measure nothing without compilation
        skip = 'exactness-compiled', 'compiled-nhwc', 'compiled-nchw'
        parts = [p for p in parts if p.name not in skip]
    return parts


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
        environment (dict): Recorded as it is.
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
        report['parts'] += [p for p in earlier['parts'] if p['status'] == 'done']
    finished = {p['name'] for p in report['parts']}
    for part in todo:
        if part.name in finished:
            continue
        left = 60 * minutes - (time.monotonic() - begin)
        entry = dict(name=part.name, status='running', seconds=0.0, results=[])
        report['parts'].append(entry)
        if left < part.estimate_s:
            reason = f'needs about {part.estimate_s:.0f} s, {max(left, 0):.0f} s left'
            entry.update(status='skipped', reason=reason)
        else:
            progress(f'{part.name}: starts, {left:.0f} s left')
            limit_s = min(left, 60 + 2 * part.estimate_s)
            _run_part(
                part, entry, limit_s, progress, lambda: write_results(report, out)
            )
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
