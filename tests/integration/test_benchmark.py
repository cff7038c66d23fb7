"""The benchmark: saved bytes counted by hand, and small runs of the tool.

Nothing here depends on how long anything takes.
"""

import importlib.util
import json
import weakref

import pytest
import torch

from benchmarks import cases as benchmark_cases
from benchmarks import cost_tables as cost
from benchmarks import measuring as benchmarking
from benchmarks.paths import describe_choice
from ra_mm._torch import cpu_mixes_dtypes
from ra_mm.layers import ReverseAttention
from ra_mm.ops import tuning
from ra_mm.reproduce import paper

spec = importlib.util.spec_from_file_location(
    'benchmark', paper.CONFIGS.parent / 'tools/benchmark.py'
)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

SMALL = '--model resnet18 --batch 2 --size 32 --device cpu'.split()


def case(what='train', **kwargs):
    settings = dict(model='resnet18', device='cpu', precision='fp32')
    settings |= dict(layout='nchw', batch=2, size=32)
    return benchmark_cases.Case(what, **(settings | kwargs))


@pytest.mark.parametrize(
    'model, variant, ratio',
    [
        ('resnet50', 'se', 35.8 / 28.9),
        ('resnet50', 'cbam', 44.3 / 28.9),
        ('resnet50', 'ra-naive', 36.5 / 28.9),
        ('resnet50', 'ra+compile', 36.5 / 28.9),
        ('resnet101', 'ra-fused', 59.8 / 46.8),
        ('resnet50', 'plain', None),
        ('resnet50', 'simam', None),
    ],
)
def test_paper_ratio(model, variant, ratio):
    """It comes from the hours of Table 2, and only for training steps."""
    assert tool.paper_ratio(case(model=model), variant) == (
        ratio and pytest.approx(ratio)
    )
    assert tool.paper_ratio(case('infer', model=model), variant) is None


def test_tails():
    """There is a tail for every residual sum; MobileNetV2's have no ReLU."""
    found = benchmark_cases.tails(case(model='resnet50', size=224))
    assert [(shape[1:], relu) for shape, relu in found] == [
        ((c, s, s), True)
        for c, s, n in ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))
        for _ in range(n)
    ]
    found = benchmark_cases.tails(case(model='mobilenetv2', size=64))
    assert [(shape[1], relu) for shape, relu in found] == [
        (c, False)
        for c, n in ((24, 1), (32, 2), (64, 3), (96, 2), (160, 2))
        for _ in range(n)
    ]


def step(variant, **kwargs):
    of = case(**kwargs)
    return benchmarking.Step(of, variant, of.inputs())


@pytest.mark.parametrize('precision, size', [('fp32', 4), ('amp', 2)])
def test_saved_bytes_of_tails(precision, size):
    """Counted by hand: a plain tail keeps z, y and two floats per channel.

    'fused' adds x and, in float32, mean and squared deviation of each plane
    and the scale, mean and variance of each channel. 'given' adds F to x and
    y, and the norm of each plane.
    """
    if precision == 'amp' and not cpu_mixes_dtypes():
        pytest.skip('the CPU lacks half-precision operations in PyTorch 2.1')
    shapes = [shape for shape, _ in benchmark_cases.tails(case())]
    stream = size * sum(shape.numel() for shape in shapes)
    planes = 4 * sum(shape[0] * shape[1] for shape in shapes)
    channels = 4 * sum(shape[1] for shape in shapes)

    def saved(variant):
        return step(variant, what='tail', precision=precision).saved_bytes()

    assert saved('plain') == 2 * stream + 2 * channels
    # The quotient gamma / temp keeps both.
    fused = saved('ra-fused') - 3 * stream - 2 * planes - 2 * channels
    given = saved('ra-given') - 4 * stream - planes - 2 * channels
    assert fused == given
    assert 0 <= fused <= 2 * channels


def test_saved_tensors_are_freed():
    """Counting leaves no reference cycle, which would fill a GPU."""
    s, outputs = step('plain'), []
    for m in s.model.modules():
        if isinstance(m, torch.nn.ReLU):
            m.register_forward_hook(lambda *args: outputs.append(weakref.ref(args[2])))
    s.saved_bytes()
    assert outputs and not any(ref() is not None for ref in outputs)


def test_saved_bytes_are_no_parameters():
    """Parameters and their copies under autocast do not count."""
    one, two, three = (
        step('plain', precision='amp', batch=n, size=64).saved_bytes()
        for n in (1, 2, 3)
    )
    assert three - two == two - one
    # Only two floats per channel and the loss's weight do not grow.
    assert 0 <= 2 * one - two - 2 * 4 * 4800 < 100


@pytest.mark.parametrize(
    'variant',
    ['plain', 'se', 'cbam', 'ra-naive', 'ra-given', 'ra-fused', 'simam', 'static_gate'],
)
def test_steps_learn(variant):
    """Every parameter has a gradient, and keeps its value."""
    s = step(variant, layout='nhwc', size=64)
    before = [p.detach().clone() for p in s.model.parameters()]
    seen = []
    s.sgd.register_step_pre_hook(
        lambda *_: seen.extend(
            # All 4 hidden units of a rival's perceptron may be dead.
            p.grad is not None and (bool(p.grad.any()) or '.mlp' in name)
            for name, p in s.model.named_parameters()
        )
    )
    s()
    assert len(seen) == len(before) and all(seen)
    assert all(map(torch.equal, before, s.model.parameters()))


def test_chosen_path(monkeypatch):
    """That which is fastest on the model's own tails; 'fused' for inference."""
    monkeypatch.setattr(tuning, 'compiler_available', lambda device: False)
    chosen = step('ra')
    assert chosen.path == chosen.choice['path']
    assert set(chosen.choice['tails_ms']) == {'reference', 'given', 'fused'}
    m = measure('ra', 'ra-naive')
    assert m['choice']['path'] in m['choice']['steps_ms']
    assert describe_choice(m['choice']) in cost.table(m)
    inference = step('ra', what='infer')
    assert inference.path == 'fused' and inference.choice is None


def test_gamma_is_not_zero():
    layers = [
        m for m in step('ra-fused').model.modules() if isinstance(m, ReverseAttention)
    ]
    assert len(layers) == 8 and all(m.gate.gamma.all() for m in layers)


def test_detector():
    """The first losses of RA and the plain detector, on the same boxes, are close."""
    losses = [
        step(variant, what='detector', model='resnet50', batch=1, size=64)
        .forward()
        .item()
        for variant in ('plain', 'ra-fused')
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_run(tmp_path, capsys):
    out = tmp_path / 'new/cpu.json'
    argv = ['--what', 'tail', 'infer', *SMALL, '--variants', 'ra-fused']
    argv += ['--rounds', '2', '--out', str(out), '--plot', '--commit', 'abc']
    tool.main(argv)
    data = json.loads(out.read_text())
    env = data['environment']
    assert env['command'].endswith(' '.join(argv))
    assert (env['torch'], env['gpu'], env['commit']) == (torch.__version__, None, 'abc')
    assert [m['what'] for m in data['measurements']] == argv[1:3]
    printed = capsys.readouterr()
    for m in data['measurements']:
        assert [r['variant'] for r in m['results']] == ['plain', 'ra-fused']
        assert all(len(r['pairs_ms']) == 2 for r in m['results'])
        assert all(t > 0 for r in m['results'] for p in r['pairs_ms'] for t in p)
        assert cost.table(m) in printed.out
        assert (m['results'][0]['saved_bytes'] is None) == (m['what'] == 'infer')
    assert '[2/2] infer resnet18' in printed.err
    assert 'round 2 of 2, 0.0 minutes left' in printed.err

    picture = out.with_suffix('.png')
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert sorted(out.parent.iterdir()) == [out, picture]
    picture.unlink()
    tool.main(['--replot', str(out)])
    assert picture.exists()
    assert capsys.readouterr().out == printed.out


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

    def seconds(step, number):
        step()
        return 1.0

    monkeypatch.setattr(benchmarking, 'Step', Recorder)
    monkeypatch.setattr(benchmarking, 'seconds', seconds)
    return order


def measure(*variants, rounds=2, **kwargs):
    return benchmarking.measure(
        case(), ['plain', *variants], rounds, lambda text: None, **kwargs
    )


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
    assert '| cbam | RuntimeError: no such kernel |' in cost.table(m)
    m = measure('cbam', keep_going=True)
    assert '| plain | 1000 |' in cost.table(m)


def test_results_survive_a_failure(tmp_path, monkeypatch, capsys):
    """Each measurement is written at once; a failed write keeps the old file."""
    out = tmp_path / 'cpu.json'

    def measure(case, *_):
        if case.what == 'infer':
            raise torch.cuda.OutOfMemoryError
        return dict(vars(case), rounds=2, number=1, results=[])

    monkeypatch.setattr(tool, 'measure', measure)
    with pytest.raises(SystemExit):
        tool.main(['--what', 'train', 'infer', '--out', str(out)])
    assert 'infer resnet50, ' in capsys.readouterr().err
    assert len(cost.read(out)['measurements']) == 1

    with pytest.raises(TypeError):
        cost.write_json(dict(a=out), out)
    assert list(tmp_path.iterdir()) == [out]
    assert len(cost.read(out)['measurements']) == 1


@pytest.mark.skipif(not cpu_mixes_dtypes(), reason='PyTorch 2.1 on a CPU')
def test_gpu_report(tmp_path, capsys):
    """A trial on the CPU, whose tables can be printed again."""
    out = tmp_path / 'report.json'
    names = ['exactness', 'operators', 'tails-nhwc']
    tool.main(
        ['--gpu-report', str(out), '--device', 'cpu', '--tiny', '--parts', *names]
    )
    printed = capsys.readouterr().out
    parts = {part['name']: part for part in json.loads(out.read_text())['parts']}
    assert list(parts) == names
    assert all(part['status'] == 'done' for part in parts.values()), parts
    exactness = parts['exactness']['results']
    assert len(exactness) == 3 * 3 * 2 * 2  # paths, dtypes, layouts, modes
    assert all(
        error['norm'] < dict(fp32=1e-6, bf16=1e-2, fp16=2e-3)[r['dtype']]
        for r in exactness
        for error in r['errors'].values()
    )
    assert parts['tails-nhwc']['results'][0]['layout'] == 'nhwc'
    assert all(f'## {name} (done, ' in printed for name in names)
    tool.main(['--replot', str(out)])
    assert capsys.readouterr().out == printed


def test_resumed_gpu_report(tmp_path, capsys):
    """The first call of a loop finds no report, the next ones keep its parts."""
    out = tmp_path / 'report.json'
    argv = f'--gpu-report {out} --device cpu --tiny --resume --parts operators'.split()
    for runs in (True, False):
        tool.main(argv)
        assert json.loads(out.read_text())['parts'][0]['status'] == 'done'
        assert ('operators: starts' in capsys.readouterr().err) == runs


def test_profile(capsys):
    tool.main(['--what', 'tail', *SMALL, '--profile', 'ra-naive'])
    out = capsys.readouterr().out
    assert 'tail resnet18, cpu fp32 nchw, 2 x 32 px ra-naive' in out
    assert 'aten::linalg_vector_norm' in out


def cases(*argv):
    return tool.cases(tool.parse_args(['--device', 'cpu', *argv]))


def test_cases():
    assert cases() == [case(model='resnet50', batch=4, size=224)]
    assert cases('--what', 'detector', '--precision', 'fp32', 'amp') == [
        case('detector', model='resnet50', batch=2, size=256),
        case('detector', model='resnet50', batch=2, size=256, precision='amp'),
    ]
    lists = '--batch 4 8 --size 64 32 --model resnet18 resnet50'.split()
    assert cases('--sweep', *lists) == [
        case(batch=4, size=64),
        case(batch=4, size=64, model='resnet50'),
        case(batch=8, size=64),
        case(batch=4, size=32),
    ]


def test_default_name():
    args = tool.parse_args(['--device', 'cpu', '--sweep', '--out'])
    assert args.out == tool.RESULTS / 'cpu_sweep.json'
