"""The choice of a path beside the whole steps of a benchmark."""

import pytest

from benchmarks.cases import Case
from benchmarks.cost_tables import report_tables
from benchmarks.measuring import Step
from benchmarks.paths import choose_path, compare_with_steps, describe_choice

CASE = Case('train', 'resnet18', 'cpu', 'fp32', 'nchw', batch=2, size=32)


def results(**steps_ms):
    return [
        dict(variant='plain', pairs_ms=[[1, 1]]),
        *(dict(variant=v, pairs_ms=[[1, ms]]) for v, ms in steps_ms.items()),
        dict(variant='ra-compiled', error='no compiler'),
    ]


def test_choice_on_the_models_tails():
    steps = {'ra-naive': 3, 'ra-given': 2, 'ra-fused': 2}
    step = Step(CASE, 'ra-fused', CASE.inputs())
    choice = choose_path(step.model, step.forward, compiles=False)
    choice = compare_with_steps(choice, results(**steps))
    assert set(choice['tails_ms']) == {'reference', 'given', 'fused'}
    assert choice['steps_ms'] == dict(reference=3, given=2, fused=2)
    assert choice['is_right'] == (choice['path'] != 'reference')
    assert f'**{choice["path"]}**' in describe_choice(choice)
    part = dict(name='train', status='done', seconds=1.0, results=[])
    part['results'].append(
        dict(vars(CASE), rounds=0, number=1, results=[], choice=choice)
    )
    report = report_tables(dict(environment={}, parts=[part]))
    assert describe_choice(choice) in report


@pytest.mark.parametrize(
    'steps, is_right, word',
    [
        ({'ra-fused': 2, 'ra-given': 2}, True, 'right'),
        ({'ra-fused': 2, 'ra-given': 3}, False, 'wrong'),
        ({'ra-fused': 2, 'ra': 2}, True, 'right'),
        ({'ra-fused': 2, 'ra': 3}, False, 'wrong'),
        ({'ra-fused': 2}, None, 'not measured'),
    ],
)
def test_verdict(steps, is_right, word):
    """'ra' is the variant of the path that was chosen."""
    choice = dict(path='given', tails_ms=dict(given=1.0), notes={}, cost_s=1.0)
    choice = compare_with_steps(choice, results(**steps))
    assert choice['is_right'] is is_right
    assert f'**given** ({word})' in describe_choice(choice)
