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

from benchmarks import cost_tables as cost_report
from benchmarks.cases import Case
from benchmarks.exactness import tail_errors
from benchmarks.measuring import Step, measure
from benchmarks.operator_check import operator_errors
from benchmarks.paths import choose_path, compare_with_steps
from ra_mm.errors import UserError

EAGER_PATHS = ['reference', 'given', 'fused']
RA = ['ra-naive', 'ra-given', 'ra-fused', 'ra-compiled']
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
class Part:
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


def parts(device: str, tiny: bool = False) -> list[Part]:
    """List the parts in order of importance.

    Args:
        device (str): 'cpu' or 'cuda'.
        tiny (bool): Use small models and inputs without compilation, to try
            the report in seconds. Defaults to False.
    """

    def exactness(paths, settings=None):
        shape = (2, 8, 6, 6) if tiny else (16, 256, 28, 28)
        return lambda progress, left: tail_errors(device, paths, shape, settings)

    def steps(what, variants, model='resnet50', **settings):
        settings = dict(precision='amp', layout='nhwc', batch=256, size=224) | settings
        if tiny:
            settings |= dict(batch=2, size=64 if what == 'detector' else 32)
            if what != 'detector':
                model = 'resnet18'
            variants = [v for v in variants if 'compile' not in v]
        case = Case(what, model, device, **settings)

        def results(progress, left):
            found = measure(
                case,
                ['plain', *variants],
                rounds=2 if tiny else 7,
                progress=progress,
                limit_s=0.8 * left,
                keep_going=True,
            )
            yield found  # first, for the choice may fail
            if what in ('train', 'detector') and 'ra-fused' in variants:
                progress('choice of a path')
                step = Step(case, 'ra-fused', case.inputs())
                with step.settings():
                    choice = choose_path(
                        step.model, step.forward, compiles='ra-compiled' in variants
                    )
                found['choice'] = compare_with_steps(choice, found['results'])

        return results

    attentions = ['se', 'cbam', *RA]
    few = ['ra-naive', 'ra-fused', 'ra-compiled']
    compiled = ['ra-fused', 'plain+compile', 'ra+compile']
    detector = dict(precision='tf32', layout='nchw', batch=2, size=800)
    found = [
        Part('exactness', 15, exactness(EAGER_PATHS)),
        Part('train-nhwc', 70, steps('train', attentions)),
        Part('train-nchw', 60, steps('train', attentions, layout='nchw')),
        Part('tails-nhwc', 25, steps('tail', RA)),
        Part('tails-nchw', 25, steps('tail', RA, layout='nchw')),
        Part('detector', 60, steps('detector', RA, **detector)),
        Part('operators', 15, lambda progress, left: operator_errors(device, tiny)),
        Part('exactness-compiled', 40, exactness(['compiled'], COMPILED_SETTINGS)),
        Part('compiled-nhwc', 100, steps('train', compiled)),
        Part('train-fp32', 45, steps('train', few, precision='fp32', layout='nchw')),
        Part('infer-256', 20, steps('infer', ['se', 'cbam', 'ra-naive', 'ra-fused'])),
        Part(
            'infer-1',
            15,
            steps('infer', ['se', 'cbam', 'ra-naive', 'ra-fused'], batch=1),
        ),
        Part('train-batch32', 30, steps('train', ['se', *few], batch=32)),
        Part('train-resnet18', 30, steps('train', ['se', *few], 'resnet18')),
        Part('train-mobilenetv2', 35, steps('train', ['se', *few], 'mobilenetv2')),
        Part('train-resnet101', 50, steps('train', ['se', *few], 'resnet101')),
        Part('compiled-nchw', 90, steps('train', compiled, layout='nchw')),
        Part('train-tf32', 30, steps('train', few, precision='tf32')),
    ]
    if tiny:  # without compilation nothing is left to measure in these
        skip = 'exactness-compiled', 'compiled-nhwc', 'compiled-nchw'
        found = [p for p in found if p.name not in skip]
    return found


def write_report(
    out: Path,
    todo: list[Part],
    minutes: float,
    environment: dict,
    progress: Callable[[str], None],
    earlier: dict | None = None,
) -> dict:
    """Run the parts, and write the report after each of their results.

    Args:
        out (Path): The JSON file.
        todo (list[Part]): What to run, in this order.
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
        todo = [part for part in todo if part.name not in finished]
    for part in todo:
        left = 60 * minutes - (time.monotonic() - begin)
        entry = dict(name=part.name, status='running', seconds=0.0, results=[])
        report['parts'].append(entry)
        if left < part.estimate_s:
            entry.update(
                status='skipped',
                reason=f'needs about {part.estimate_s:.0f} s, {max(left, 0):.0f} s left',
            )
        else:
            progress(f'{part.name}: starts, {left:.0f} s left')
            limit = min(left, 60 + 2 * part.estimate_s)
            _run(
                part,
                entry,
                limit,
                progress,
                lambda: cost_report.write_json(report, out),
            )
        progress(f'{part.name}: {entry["status"]} {entry.get("reason", "")}')
        cost_report.write_json(report, out)
    return report


def _run(part, entry, limit, progress, save):
    start = time.monotonic()
    try:
        with time_limit(limit):
            for result in part.results(
                lambda text: progress(f'{part.name}: {text}'), limit
            ):
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
