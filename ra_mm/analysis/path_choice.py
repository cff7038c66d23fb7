"""The choice of a path by measurement, and whether whole steps agree."""

import time
from statistics import median

from ra_mm.analysis.benchmark_cases import VARIANTS, Case
from ra_mm.analysis.benchmarking import Step
from ra_mm.ops.tuning import MARGIN, fastest_path


def choose_path(case: Case, measurement: dict, compiles: bool) -> dict:
    """Choose a path for the training step of a case.

    Args:
        case (Case): With ``what`` 'train' or 'detector'.
        measurement (dict): The whole steps of the same case, with RA variants.
        compiles (bool): Whether the compiled path is tried.

    Returns:
        dict: ``path``, ``tails_ms`` of each path, ``notes`` on those that were
        not measured, ``cost_s`` of the choice, and of the whole steps
        ``steps_ms`` of each path and ``is_right``: whether the path is as fast
        as any, to within the margin of the choice.
    """
    step = Step(case, 'ra-fused', case.inputs())

    def forward(model):
        step.model, original = model, step.model
        try:
            step.forward()
        finally:
            step.model = original

    start = time.perf_counter()
    choice = fastest_path(step.model, forward, steps=10**9 if compiles else 0)
    cost_s = time.perf_counter() - start
    steps_ms = {
        VARIANTS[r['variant']][1]: median(own for _, own in r['pairs_ms'])
        for r in measurement['results']
        if r['variant'].startswith('ra-') and 'error' not in r
    }
    own = steps_ms.get(choice.path)
    return dict(
        path=choice.path,
        tails_ms={path: 1e3 * s for path, s in choice.seconds.items()},
        notes=choice.notes,
        cost_s=cost_s,
        steps_ms=steps_ms,
        is_right=own and own <= (1 + MARGIN) * min(steps_ms.values()),
    )


def describe_choice(choice: dict) -> str:
    """Format the choice as one line of Markdown."""
    tails = [f'{path} {ms:.4g} ms' for path, ms in choice['tails_ms'].items()]
    tails += [f'{path}: {why}' for path, why in choice['notes'].items()]
    steps = [f'{path} {ms:.4g} ms' for path, ms in choice['steps_ms'].items()]
    verdict = {True: 'right', False: 'wrong', None: 'not measured'}[choice['is_right']]
    return (
        f'Choice in {choice["cost_s"]:.1f} s: **{choice["path"]}** ({verdict}). '
        f'Tails: {", ".join(tails)}. Steps: {", ".join(steps)}.\n'
    )
