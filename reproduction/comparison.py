"""Compares models seed by seed: differences, their intervals and what chance does.

Runs with the same seed start from the same weights and see the same images, so
models are compared by the differences within seeds (pairs).
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05  # of significance; intervals have a confidence of 1 - LEVEL
MAX_EXACT_SEEDS = 16  # all 2^n signs of more seeds would fill the memory


class Comparison(NamedTuple):
    """A model compared with the baseline.

    Attributes:
        differences: To the baseline, for each seed that all models have.
        interval: Confidence interval of the mean difference (Student's t).
            None for one seed.
        p: Of all ways to swap the model and the baseline within the seeds, the
            fraction in which the mean difference is at least as large, in
            either direction.
        corrected_p: The fraction in which the difference of any of the compared
            models is, relative to its spread, at least as large as this one.
    """

    differences: np.ndarray
    interval: tuple[float, float] | None
    p: float
    corrected_p: float

    def describe(self) -> str:
        """Say what the seeds show, without terms of statistics."""
        n = len(self.differences)
        if n == 1:
            return 'One seed does not show how much is due to chance.'
        better = (self.differences > 0).sum()
        low, high = (f'{value:+.2f}'.replace('-', '−') for value in self.interval or ())
        text = f'Better in {better} of {n} seeds; the 95 % interval of the difference '
        text += f'is {low} to {high}. '
        if 2 / 2**n > LEVEL:
            return f'{text}So few seeds cannot rule out chance; 6 could.'
        verdict = 'more than chance explains' if self.corrected_p <= LEVEL else 'chance'
        return (
            f'{text}If the models were equal, one of those compared would differ this '
            f'clearly in {100 * self.corrected_p:.1f} % of cases (this one alone in '
            f'{100 * self.p:.1f} %): {verdict}.'
        )


def compare(
    values: Mapping[str, Mapping[int, float]], baseline: str
) -> dict[str, Comparison]:
    """Compare models with a baseline over the seeds that all of them have.

    The test is exact: within each seed, which of the two values is the
    baseline's is a toss of a coin if the models are equal. The tosses are the
    same for all models, so that the largest difference of any of them tells
    what several comparisons find by chance (P. H. Westfall and S. S. Young,
    Resampling-based multiple testing, 1993). With more than 16 seeds, 65,536
    random tosses stand for all.

    Args:
        values: By model and seed; larger is better.
        baseline: Name of the model that the others are compared with.

    Returns:
        Comparisons by model, without the baseline; none if the models share no
        seed.
    """
    seeds = sorted(set.intersection(*(set(v) for v in values.values())))
    others = [name for name in values if name != baseline]
    if not seeds or not others:
        return {}
    table = {name: np.array([v[seed] for seed in seeds]) for name, v in values.items()}
    differences = np.array([table[name] - table[baseline] for name in others])
    n = len(seeds)
    if n <= MAX_EXACT_SEEDS:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        random = np.random.default_rng(0)
        signs = random.choice((1, -1), (2**MAX_EXACT_SEEDS, n))
        signs[0] = 1  # as observed
    # Swapping changes the sign of a difference, but not its square: this is |t| up to
    # a monotonic function.
    scale = np.sqrt((differences**2).sum(axis=1)) + 1e-12
    sizes = np.abs(signs @ differences.T) / scale  # (tosses, models)
    observed = np.abs(differences.sum(axis=1)) / scale - 1e-9
    p = (sizes >= observed).mean(axis=0)
    corrected = (sizes.max(axis=1, keepdims=True) >= observed).mean(axis=0)
    return {
        name: Comparison(d, _interval(d), p[i], corrected[i])
        for i, (name, d) in enumerate(zip(others, differences))
    }


def _interval(differences):
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:  # scipy gives nan
        return differences[0], differences[0]
    return tuple(stats.ttest_1samp(differences, 0).confidence_interval(1 - LEVEL))
