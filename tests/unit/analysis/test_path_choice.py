"""The choice of a path beside the whole steps of a benchmark."""

import pytest

from ra_mm.analysis import path_choice
from ra_mm.analysis.benchmark_cases import Case
from ra_mm.analysis.cost_report import report_tables
from ra_mm.analysis.path_choice import choose_path, describe_choice
from ra_mm.ops.tuning import Choice

CASE = Case('train', 'resnet18', 'cpu', 'fp32', 'nchw', batch=2, size=32)


def measurement(**steps_ms):
    return dict(
        results=[
            dict(variant='plain', pairs_ms=[[1, 1]]),
            *(dict(variant=v, pairs_ms=[[1, ms]]) for v, ms in steps_ms.items()),
            dict(variant='ra-compiled', error='no compiler'),
        ]
    )


def test_choice_on_the_models_tails():
    steps = {'ra-naive': 3, 'ra-given': 2, 'ra-fused': 2}
    choice = choose_path(CASE, measurement(**steps), compiles=False)
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
    'given, is_right, word',
    [(2, True, 'right'), (3, False, 'wrong'), (None, None, 'not')],
)
def test_verdict(given, is_right, word, monkeypatch):
    def fastest(model, forward, steps):
        return Choice('given', dict(given=1.0), {})

    monkeypatch.setattr(path_choice, 'fastest_path', fastest)
    steps = {'ra-fused': 2} | ({'ra-given': given} if given else {})
    choice = choose_path(CASE, measurement(**steps), compiles=True)
    assert choice['is_right'] is is_right and word in describe_choice(choice)
