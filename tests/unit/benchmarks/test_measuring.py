"""Steps, their saved bytes counted by hand, and paired rounds.

Nothing here depends on how long anything takes.
"""

import weakref

import pytest
import torch

from benchmarks import cases, measuring
from benchmarks.cost_tables import cost_table
from benchmarks.exactness import tail_errors
from ra_mm._torch import COMPILES_FUNCTIONS, cpu_mixes_dtypes
from ra_mm.layers import ReverseAttention
from ra_mm.ops import CompilationFailed, tuning


def case(what='train', **kwargs):
    settings = dict(model='resnet18', device='cpu', precision='fp32')
    settings |= dict(layout='nchw', batch=2, size=32)
    return cases.Case(what, **(settings | kwargs))


def step(variant, **kwargs):
    of = case(**kwargs)
    return measuring.Step(of, variant, of.inputs())


@pytest.mark.parametrize('precision, size', [('fp32', 4), ('amp', 2)])
def test_saved_bytes_of_tails(precision, size):
    """Counted by hand: a plain tail keeps z, y and two floats per channel.

    'fused' adds x and, in float32, mean and squared deviation of each plane
    and the scale, mean and variance of each channel. 'fused_sum' adds F to x and
    y, and the norm of each plane.
    """
    if precision == 'amp' and not cpu_mixes_dtypes():
        pytest.skip('the CPU lacks half-precision operations in PyTorch 2.1')
    shapes = [shape for shape, _ in cases.tails(case())]
    stream = size * sum(shape.numel() for shape in shapes)
    planes = 4 * sum(shape[0] * shape[1] for shape in shapes)
    channels = 4 * sum(shape[1] for shape in shapes)

    def saved(variant):
        return step(variant, what='tail', precision=precision).saved_bytes()

    assert saved('plain') == 2 * stream + 2 * channels
    # The quotient gamma / temp keeps both.
    fused = saved('ra-fused') - 3 * stream - 2 * planes - 2 * channels
    sum_alone = saved('ra-fused_sum') - 4 * stream - planes - 2 * channels
    assert fused == sum_alone
    assert 0 <= fused <= 2 * channels


def test_saved_tensors_are_freed():
    """Counting leaves no reference cycle, which would fill a GPU."""
    s, outputs = step('plain'), []
    for m in s.model.modules():
        if isinstance(m, torch.nn.ReLU):
            m.register_forward_hook(lambda *args: outputs.append(weakref.ref(args[2])))
    s.saved_bytes()
    assert outputs and not any(ref() is not None for ref in outputs)


def test_gamma_is_not_zero():
    layers = [
        m for m in step('ra-fused').model.modules() if isinstance(m, ReverseAttention)
    ]
    assert len(layers) == 8 and all(m.gate.gamma.all() for m in layers)


@pytest.fixture
def steps_run(monkeypatch):
    """The variants of the steps in the order in which they run; 'cbam' fails."""
    order = []

    class Recorder:
        choice, path = None, 'fused'

        def __init__(self, case, variant, inputs):
            self.variant = variant

        def __call__(self):
            if self.variant == 'cbam':
                raise RuntimeError('no such kernel')
            order.append(self.variant)

        def saved_bytes(self):
            return 8

    monkeypatch.setattr(measuring, 'Step', Recorder)
    monkeypatch.setattr(measuring, 'seconds', lambda step, number: step() or 1.0)
    return order


def measure(*variants, rounds=2, **kwargs):
    return measuring.measure_case(case(), variants, rounds, lambda text: None, **kwargs)


def test_rounds_are_paired_and_alternate(steps_run):
    measure('se', 'ra-fused')
    assert steps_run[-8:] == [
        *('se', 'plain', 'ra-fused', 'plain'),
        *('plain', 'se', 'plain', 'ra-fused'),
    ]


def test_a_time_limit_leaves_three_rounds(steps_run):
    m = measure('se', rounds=9, limit_s=0)
    assert m['rounds'] == len(m['results'][1]['pairs_ms']) == 3


def test_a_failing_variant(steps_run):
    """It stops the measurement, unless errors are to be recorded in the table."""
    with pytest.raises(RuntimeError, match='no such kernel'):
        measure('cbam', 'se')
    m = measure('cbam', 'se', keep_going=True)
    assert [r['variant'] for r in m['results']] == ['plain', 'se', 'cbam']
    assert '| cbam | RuntimeError: no such kernel |' in cost_table(m)
    m = measure('cbam', keep_going=True)
    assert '| plain | 1000 |' in cost_table(m)


@pytest.fixture
def compiler(monkeypatch, use_compiler):
    """Note what it is called for, and fails if it is told to."""

    if not COMPILES_FUNCTIONS:
        pytest.skip('PyTorch < 2.5 compiles nothing')

    class Compiler:
        calls, fails = 0, False

        def __call__(self, function, **kwargs):
            self.calls += 1

            def compiled(*args):
                if self.fails:
                    raise RuntimeError('no such compiler')
                return function(*args)

            return compiled

    compiler = Compiler()
    one = [(torch.Size([2, 4, 8, 8]), True)]
    monkeypatch.setattr(cases, 'tails', lambda case: one)
    use_compiler(compiler)
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: True)
    monkeypatch.setattr(measuring, 'seconds', lambda step, number: step() or 1.0)
    return compiler


def measure_tails(
    progress=lambda text: None, variants=('ra-compiled', 'ra-fused'), **kwargs
):
    return measuring.measure_case(case('tail'), variants, 2, progress, **kwargs)


def outcomes(m):
    return {r['variant']: r.get('error', 'measured') for r in m['results']}


def test_variant_that_is_not_compiled(compiler):
    """It has no figure, and the next measurement tries again."""
    compiler.fails = True
    with pytest.raises(CompilationFailed, match='no such compiler'):
        measure_tails()
    found = outcomes(measure_tails(keep_going=True))
    assert found['ra-fused'] == found['plain'] == 'measured'
    assert 'no such compiler' in found['ra-compiled']
    compiler.fails = False
    assert set(outcomes(measure_tails()).values()) == {'measured'}


def test_compilation_that_fails_in_the_rounds(compiler):
    """The rounds after it ran eagerly, so that the variant has no figure."""

    def progress(text):
        compiler.fails = text.startswith('round')

    with pytest.warns(CompilationFailed):
        found = outcomes(measure_tails(progress, keep_going=True))
    assert found['ra-fused'] == 'measured'
    assert 'CompilationFailed' in found['ra-compiled']
    with pytest.warns(CompilationFailed), pytest.raises(CompilationFailed):
        measure_tails(progress)


def test_errors_of_the_compiled_path(compiler):
    """They are those of compiled code, whatever failed before."""

    def errors():
        return list(tail_errors('cpu', ['compiled'], (2, 4, 6, 6), [setting]))

    setting = 'fp32', 'nchw', True
    compiler.fails = True
    with pytest.raises(CompilationFailed, match='no such compiler'):
        errors()
    compiler.fails, compiler.calls = False, 0
    assert errors() and compiler.calls == 2  # forward and backward


def test_choice_after_a_failure(compiler):
    """Eager code is not timed as compiled; the choice is among the other paths."""
    compiler.fails = True
    with pytest.warns(CompilationFailed):
        m = measure_tails(variants=['ra-compiled', 'ra'], keep_going=True)
    assert outcomes(m)['ra'] == 'measured' and m['choice']['path'] != 'compiled'
    assert 'no such compiler' in m['choice']['notes']['compiled']


@pytest.mark.parametrize('precision', ['fp32', 'tf32'])
def test_choice_with_the_flags_of_the_step(compiler, monkeypatch, precision):
    """They are a guard of compiled code, which other flags would compile again."""

    def choose(model, forward):
        allowed.append(torch.backends.cudnn.allow_tf32)
        return dict(path='fused_sum')

    allowed = []
    monkeypatch.setattr(measuring, 'choose_path', choose)
    step('ra', what='tail', precision=precision)
    assert allowed == [precision == 'tf32']
