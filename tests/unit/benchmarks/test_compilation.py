"""What is measured as compiled is compiled."""

import dataclasses

import pytest
import torch

from benchmarks import cases as benchmark_cases
from benchmarks import measuring as benchmarking
from benchmarks.exactness import tail_errors
from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.ops import dispatch, tuning

pytestmark = pytest.mark.skipif(
    not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 compiles nothing'
)
CASE = benchmark_cases.Case('tail', 'resnet18', 'cpu', 'fp32', 'nchw', batch=2, size=32)
VARIANTS = ['plain', 'ra-compiled', 'ra-fused']


@pytest.fixture
def compiler(monkeypatch):
    """Notes what it is called for, and fails if it is told to."""

    class Compiler:
        calls, fails = 0, False

        def __call__(self, function):
            self.calls += 1
            if self.fails:
                raise RuntimeError('no such compiler')
            return function

    compiler = Compiler()
    one = [(torch.Size([2, 4, 8, 8]), True)]
    monkeypatch.setattr(benchmark_cases, 'tails', lambda case: one)
    monkeypatch.setattr(dispatch, '_compilation_failed', False)
    monkeypatch.setattr(dispatch, '_compile', compiler)
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: True)
    return compiler


def measure(progress=lambda text: None, variants=VARIANTS, **kwargs):
    return benchmarking.measure(CASE, variants, 2, progress, **kwargs)


def outcomes(m):
    return {r['variant']: r.get('error', 'measured') for r in m['results']}


def test_variant_that_is_not_compiled(compiler):
    """It has no figure, and the next measurement tries again."""
    compiler.fails = True
    with pytest.raises(dispatch.CompilationFailed, match='no such compiler'):
        measure()
    found = outcomes(measure(keep_going=True))
    assert found['ra-fused'] == found['plain'] == 'measured'
    assert 'no such compiler' in found['ra-compiled']
    compiler.fails = False
    assert set(outcomes(measure()).values()) == {'measured'}


def test_compilation_that_fails_in_the_rounds(compiler):
    """The rounds after it ran eagerly, so that the variant has no figure."""

    def progress(text):
        compiler.fails = text.startswith('round')

    with pytest.warns(dispatch.CompilationFailed):
        found = outcomes(measure(progress, keep_going=True))
    assert found['ra-fused'] == 'measured'
    assert 'CompilationFailed' in found['ra-compiled']
    with (
        pytest.warns(dispatch.CompilationFailed),
        pytest.raises(dispatch.CompilationFailed),
    ):
        measure(progress)


def test_errors_of_the_compiled_path(compiler):
    """They are those of compiled code, whatever failed before."""

    def errors():
        return list(tail_errors('cpu', ['compiled'], (2, 4, 6, 6), [setting]))

    setting = 'fp32', 'nchw', True
    compiler.fails = True
    with pytest.raises(dispatch.CompilationFailed, match='no such compiler'):
        errors()
    compiler.fails, compiler.calls = False, 0
    assert errors() and compiler.calls == 2  # forward and backward


def test_choice_after_a_failure(compiler):
    """Eager code is not timed as compiled; the choice is among the other paths."""
    compiler.fails = True
    with pytest.warns(dispatch.CompilationFailed):
        m = measure(variants=['plain', 'ra-compiled', 'ra'], keep_going=True)
    assert outcomes(m)['ra'] == 'measured' and m['choice']['path'] != 'compiled'
    assert 'no such compiler' in m['choice']['notes']['compiled']


@pytest.mark.parametrize('precision', ['fp32', 'tf32'])
def test_choice_with_the_flags_of_the_step(compiler, monkeypatch, precision):
    """They are a guard of compiled code, which other flags would compile again."""

    def choose(model, forward):
        allowed.append(torch.backends.cudnn.allow_tf32)
        return dict(path='given')

    allowed = []
    monkeypatch.setattr(benchmarking, 'choose_path', choose)
    case = dataclasses.replace(CASE, precision=precision)
    benchmarking.Step(case, 'ra', case.inputs())
    assert allowed == [precision == 'tf32']
