"""Paired comparisons, against scipy and against what chance does."""

import numpy as np
import pytest
from scipy import stats

from reproduction.comparison import compare


def draw(seeds, models=4, effect=0.0, seed=0):
    """Values by model and seed that vary with the seed; the last has an effect."""
    random = np.random.default_rng(seed)
    values = 50 + random.normal(size=(1, seeds)) + random.normal(size=(models, seeds))
    values[-1] += effect
    return {f'm{i}': dict(enumerate(row)) for i, row in enumerate(values)}


@pytest.mark.parametrize('effect', [1, 9])
def test_one_comparison_agrees_with_scipy(effect):
    values = draw(seeds=8, models=2, effect=effect)
    a, b = (list(row.values()) for row in values.values())
    comparison = compare(values, 'm0')['m1']
    expected = stats.permutation_test(
        (b, a),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type='samples',
        vectorized=True,
    )
    assert comparison.p == comparison.corrected_p == pytest.approx(expected.pvalue)
    interval = stats.ttest_rel(b, a).confidence_interval()
    assert comparison.interval == pytest.approx(tuple(interval))
    # All eight seeds are better: 2 of the 256 cases are as clear.
    assert effect == 1 or comparison.p == 2 / 256


def test_correction_for_several_comparisons():
    """Equal models: one of them seems to differ in at most 5 % of experiments."""
    found = np.zeros(2)
    for seed in range(200):
        comparisons = compare(draw(seeds=6, seed=seed), 'm0').values()
        assert all(c.p <= c.corrected_p for c in comparisons)
        found += [
            any(c.p <= 0.05 for c in comparisons),
            any(c.corrected_p <= 0.05 for c in comparisons),
        ]
    assert found[0] / 200 > 0.06  # without the correction
    assert found[1] / 200 <= 0.06


def test_a_clear_effect_is_found_among_several():
    comparisons = compare(draw(seeds=10, effect=5), 'm0')
    assert comparisons['m3'].corrected_p <= 0.01
    assert comparisons['m1'].corrected_p > 0.05


def test_only_common_seeds():
    values = {'a': {0: 1.0, 1: 2.0, 2: 9.0}, 'b': {1: 2.5, 0: 1.0}, 'c': {1: 4.0, 7: 1}}
    comparisons = compare(values, 'a')
    assert {name: list(c.differences) for name, c in comparisons.items()} == {
        'b': [0.5],
        'c': [2.0],
    }
    assert comparisons['b'].interval is None
    assert compare({'a': {0: 1.0}, 'b': {1: 1.0}}, 'a') == {}


def test_many_seeds_are_sampled():
    comparison = compare(draw(seeds=20, models=2, effect=0.7), 'm0')['m1']
    exact_enough = stats.permutation_test(
        (comparison.differences,),
        np.mean,
        permutation_type='samples',
        n_resamples=20000,
    )
    assert comparison.p == pytest.approx(exact_enough.pvalue, abs=0.01)
