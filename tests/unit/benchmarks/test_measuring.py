"""Steps, their saved bytes counted by hand, and paired rounds.

Nothing here depends on how long anything takes.
"""

import weakref

import pytest
import torch

from benchmarks import cases, measuring
from benchmarks.cost_tables import cost_table
from ra_mm._torch import cpu_mixes_dtypes
from ra_mm.layers import ReverseAttention
from ra_mm.ops import CompilationFailed, compilation


def case(what='train', **kwargs):
    settings = dict(model='resnet18', device='cpu', precision='fp32')
    settings |= dict(layout='nchw', batch=2, size=32)
    return cases.Case(what, **(settings | kwargs))


def step(variant, **kwargs):
    of = case(**kwargs)
    return measuring.Step(of, variant, of.inputs())


@pytest.mark.parametrize('precision, size', [('fp32', 4), ('amp', 2)])
def test_saved_bytes(precision, size):
    """What RA adds to the plain model, counted by hand.

    'fused' adds the shortcuts of the three projection blocks and, in float32, mean
    and squared deviation of each plane and up to five values of each channel.
    'fused_sum' adds F of all blocks, and the norm of each plane.
    """
    if precision == 'amp' and not cpu_mixes_dtypes():
        pytest.skip('the CPU lacks half-precision operations in PyTorch 2.1')
    shapes = [(64 * 2**i, 8 // 2**i) for i in range(4) for _ in range(2)]
    streams = [size * 2 * C * side**2 for C, side in shapes]
    channels = 4 * sum(C for C, _ in shapes)
    planes = 2 * channels  # of two images

    def added(variant):
        saved = step(variant, precision=precision).saved_bytes()
        return saved - step('plain', precision=precision).saved_bytes()

    fused = added('ra-fused') - sum(streams[2::2]) - 2 * planes
    sum_alone = added('ra-fused_sum') - sum(streams[2::2]) - sum(streams) - planes
    assert 0 <= fused <= 5 * channels and 0 <= sum_alone <= 5 * channels


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
        choice = None

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
    """Note whether it is called and under which flags, and fail if told to."""
    if not hasattr(torch.compiler, 'set_stance'):
        pytest.skip('PyTorch < 2.6 compiles nothing')

    class Compiler:
        fails, flags = False, []

        def __call__(self, function, **options):
            def compiled(*args):
                if self.fails:
                    raise RuntimeError('no such compiler')
                self.flags.append(torch.backends.cudnn.allow_tf32)
                return function(*args)

            return compiled

    compiler = Compiler()
    use_compiler(compiler)
    monkeypatch.setattr(compilation, 'compiler_available', lambda device: True)
    monkeypatch.setattr(measuring, 'seconds', lambda step, number: step() or 1.0)
    return compiler


def outcomes(m):
    return {r['variant']: r.get('error', 'measured') for r in m['results']}


def test_variant_that_is_not_compiled(compiler):
    """It has no figure, while a choice falls back to eager mode."""
    compiler.fails = True
    with pytest.raises(CompilationFailed, match='no such compiler'):
        measure('ra+compile')
    with pytest.warns(CompilationFailed):
        m = measure('ra+compile', 'ra', keep_going=True)
    found = outcomes(m)
    assert found['ra'] == found['plain'] == 'measured'
    assert 'no such compiler' in found['ra+compile']
    choice = {r['variant']: r.get('choice') for r in m['results']}['ra']
    assert choice['mode'] == 'eager' and 'ra: ' in cost_table(m)


@pytest.mark.parametrize('precision', ['fp32', 'tf32'])
def test_choice_with_the_flags_of_the_step(compiler, precision):
    """They are a guard of compiled code, which other flags would compile again."""
    compiler.flags.clear()
    step('plain-chosen', precision=precision)
    assert set(compiler.flags) == {precision == 'tf32'}
