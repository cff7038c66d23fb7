"""The choice of a path beside the whole steps of a benchmark."""

import pytest

from benchmarks.cost_tables import describe_choice
from benchmarks.paths import compare_with_steps


def results(**steps_ms):
    return [
        dict(variant='plain', pairs_ms=[[1, 1]]),
        *(dict(variant=v, pairs_ms=[[1, ms]]) for v, ms in steps_ms.items()),
        dict(variant='ra-compiled', error='no compiler'),
    ]


@pytest.mark.parametrize(
    'steps, is_right, word',
    [
        ({'ra-fused': 2, 'ra-fused_sum': 2}, True, 'right'),
        ({'ra-fused': 2, 'ra-fused_sum': 3}, False, 'wrong'),
        ({'ra-fused': 2, 'ra': 2}, True, 'right'),
        ({'ra-fused': 2, 'ra': 3}, False, 'wrong'),
        ({'ra-fused': 2}, None, 'not measured'),
    ],
)
def test_verdict(steps, is_right, word):
    """'ra' is the variant of the path that was chosen."""
    choice = dict(path='fused_sum', tails_ms=dict(fused_sum=1.0), notes={}, cost_s=1.0)
    choice = compare_with_steps(choice, results(**steps))
    assert choice['is_right'] is is_right
    assert f'**fused_sum** ({word})' in describe_choice(choice)
