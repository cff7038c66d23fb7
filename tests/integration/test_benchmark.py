"""The benchmark's figures from given times, exact bytes, and small runs.

Nothing here depends on how long anything takes.
"""

import importlib.util
import json

import pytest
import torch

from ra_mm.analysis import cost_report as cost
from ra_mm.reproduce import paper

spec = importlib.util.spec_from_file_location(
    'benchmark', paper.CONFIGS.parent / 'tools/benchmark.py'
)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def case(what='train', **kwargs):
    return tool.Case(
        **{
            **dict(
                what=what,
                model='resnet18',
                device='cpu',
                precision='fp32',
                layout='nchw',
                batch=2,
                size=32,
            ),
            **kwargs,
        }
    )


def result(variant, pairs, peak=None, saved=None, paper_ratio=None):
    return dict(
        variant=variant,
        pairs_ms=pairs,
        peak_bytes=peak,
        saved_bytes=saved,
        paper_ratio=paper_ratio,
    )


def results(**kwargs):
    """Of a machine that became four times slower in the middle."""
    return dict(
        **{**vars(case()), **kwargs},
        rounds=5,
        number=3,
        results=[
            result(
                'plain', [[t, t] for t in (10, 10, 40, 40, 40)], 2_000_000, 1_000_000
            ),
            result(
                'ra-fused',
                [[10, 11], [10, 12], [40, 52], [40, 40], [40, 60]],
                3_000_000,
                1_070_000,
                1.26,
            ),
        ],
    )


def document(*measurements, sweep=False):
    return dict(
        environment=dict(cpu='A', gpu=None, torch='2', threads=1),
        sweep=sweep,
        measurements=list(measurements),
    )


def test_summary():
    """The median of ratios, which is not the ratio of medians."""
    plain, ra = results()['results']
    figures = cost.summary(ra, plain)
    assert figures['ms'] == 40
    assert figures['ratio'] == pytest.approx(1.2)
    assert figures['quartiles'] == pytest.approx((1.1, 1.3))
    assert figures['peak'] == 1.5
    assert figures['saved'] == 1.07
    unknown = cost.summary(
        result('ra', ra['pairs_ms']), result('plain', plain['pairs_ms'])
    )
    assert unknown['peak'] is unknown['saved'] is None


def test_table():
    lines = cost.table(results()).splitlines()
    assert lines[0] == ('train resnet18, cpu fp32 nchw, 2 x 32 px, 5 rounds of 3')
    assert lines[-2:] == [
        '| plain | 40 | 1.000 [1.000, 1.000] | 2.0 | 1.000 | 1.0 | 1.000 |  |',
        '| ra-fused | 40 | 1.200 [1.100, 1.300] | 3.0 | 1.500 | 1.1 | 1.070 | 1.26 |',
    ]


def test_bars():
    fig = cost.plot(document(results(), results(layout='nhwc')))
    times, saved = fig.axes[:2]
    (bar,) = times.patches
    assert bar.get_width() == pytest.approx(1.2)
    _, spread, printed = times.lines
    assert spread.get_xdata() == pytest.approx([1.1, 1.3])
    assert printed.get_xdata() == [1.26]
    assert [bar.get_width() for bar in saved.patches] == [1.07]


def test_sweep_picture():
    """Each panel has the points that differ in its own value alone."""
    data = document(
        results(),
        results(model='resnet101'),
        results(size=64),
        results(size=128),
        results(batch=16),
        sweep=True,
    )
    size, batch, model = cost.plot(data).axes
    for ax, expected in (
        (size, ['32', '64', '128']),
        (batch, ['2', '16']),
        (model, ['resnet18', 'resnet101']),
    ):
        line = ax.lines[0]
        assert list(line.get_xdata()) == expected
        assert line.get_ydata() == pytest.approx([1.2] * len(expected))


@pytest.mark.parametrize(
    'model, variant, ratio',
    [
        ('resnet50', 'se', 35.8 / 28.9),
        ('resnet50', 'cbam', 44.3 / 28.9),
        ('resnet50', 'ra-naive', 36.5 / 28.9),
        ('resnet50', 'ra+compile', 36.5 / 28.9),
        ('resnet101', 'ra-fused', 59.8 / 46.8),
        ('resnet50', 'plain', None),
    ],
)
def test_paper_ratio(model, variant, ratio):
    """Table 2, beside training steps alone."""
    assert tool.paper_ratio(case(model=model), variant) == (
        ratio and pytest.approx(ratio)
    )
    assert tool.paper_ratio(case('infer', model=model), variant) is None


def test_tails():
    """Of all residual sums; MobileNetV2's have no ReLU."""
    found = tool.tails(case(model='resnet50', size=224))
    assert [(shape[1:], relu) for shape, relu in found] == [
        ((c, s, s), True)
        for c, s, n in ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))
        for _ in range(n)
    ]
    found = tool.tails(case(model='mobilenetv2', size=64))
    assert [(shape[1], relu) for shape, relu in found] == [
        (c, False)
        for c, n in ((24, 1), (32, 2), (64, 3), (96, 2), (160, 2))
        for _ in range(n)
    ]


def step(variant, **kwargs):
    of = case(**kwargs)
    return tool.Step(of, variant, of.inputs())


@pytest.mark.parametrize('precision, size', [('fp32', 4), ('amp', 2)])
def test_saved_bytes_of_tails(precision, size):
    """By hand: z and y, of batch norm a mean and a deviation of float32.

    'fused' adds x, and in float32 mean and squared deviation of a plane, and
    G's scale, mean and variance of a channel; 'given' adds F to x and y, with
    a norm for each plane.
    """
    shapes = [shape for shape, _ in tool.tails(case())]
    stream = size * sum(shape.numel() for shape in shapes)
    planes = 4 * sum(shape[0] * shape[1] for shape in shapes)
    channels = 4 * sum(shape[1] for shape in shapes)

    def saved(variant):
        return step(variant, what='tail', precision=precision).saved_bytes()

    assert saved('plain') == 2 * stream + 2 * channels
    # gamma and temp are kept as scale, by the product and by the quotient
    fused = saved('ra-fused') - 3 * stream - 2 * planes - 2 * channels
    given = saved('ra-given') - 4 * stream - planes - 2 * channels
    assert fused == given
    assert 0 <= fused <= 2 * channels


def test_saved_bytes_are_no_parameters():
    """Nor autocast's copies of them, however many images a batch has."""
    one, two, three = (
        step('plain', precision='amp', batch=n, size=64).saved_bytes()
        for n in (1, 2, 3)
    )
    assert three - two == two - one
    # What does not grow is two numbers a channel and the loss's weight.
    assert 0 <= 2 * one - two - 2 * 4 * 4800 < 100


@pytest.mark.parametrize(
    'variant', ['plain', 'se', 'cbam', 'ra-naive', 'ra-given', 'ra-fused']
)
def test_steps_learn(variant):
    """Every parameter has a gradient, and the weights stay as they are."""
    s = step(variant, layout='nhwc', size=64)
    before = [p.detach().clone() for p in s.model.parameters()]
    seen = []
    s.sgd.register_step_pre_hook(
        lambda *_: seen.extend(
            p.grad is not None and bool(p.grad.any()) for p in s.model.parameters()
        )
    )
    s()
    assert len(seen) == len(before) and all(seen)
    assert all(map(torch.equal, before, s.model.parameters()))


def test_gamma_is_not_zero():
    layers = [
        m
        for m in step('ra-fused').model.modules()
        if isinstance(m, tool.ReverseAttention)
    ]
    assert len(layers) == 8 and all(m.gamma.all() for m in layers)


def test_detector():
    """RA's first losses are near the plain ones, on the same boxes."""
    losses = [
        step(variant, what='detector', model='resnet50', batch=1, size=64)
        .forward()
        .item()
        for variant in ('plain', 'ra-fused')
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_run(tmp_path, capsys):
    out = tmp_path / 'new/cpu.json'
    argv = [
        '--what',
        'tail',
        'infer',
        '--model',
        'resnet18',
        '--batch',
        '2',
        '--size',
        '32',
        '--variants',
        'ra-fused',
        '--device',
        'cpu',
        '--rounds',
        '2',
        '--out',
        str(out),
        '--plot',
    ]
    tool.main(argv)
    data = json.loads(out.read_text())
    assert data['environment']['command'].endswith(' '.join(argv))
    assert data['environment']['torch'] == torch.__version__
    assert data['environment']['gpu'] is None
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


def test_rounds_are_paired_in_turn(monkeypatch):
    """Each variant runs next to plain, and not always second."""
    order = []

    class Recorder:
        def __init__(self, case, variant, inputs):
            self.variant = variant

        def __call__(self):
            order.append(self.variant)

        def saved_bytes(self):
            return 8

    def seconds(step, number):
        step()
        return 1.0

    monkeypatch.setattr(tool, 'Step', Recorder)
    monkeypatch.setattr(tool, 'seconds', seconds)
    tool.measure(case(), ['plain', 'se', 'cbam'], 2, lambda text: None)
    assert order[-8:] == [
        'se',
        'plain',
        'cbam',
        'plain',
        'plain',
        'se',
        'plain',
        'cbam',
    ]


def test_results_survive_what_follows(tmp_path, monkeypatch, capsys):
    """Each measurement is written at once; a failed write leaves the old."""
    out = tmp_path / 'cpu.json'

    def measure(case, *_):
        if case.what == 'infer':
            raise torch.OutOfMemoryError
        return results()

    monkeypatch.setattr(tool, 'measure', measure)
    with pytest.raises(SystemExit):
        tool.main(['--what', 'train', 'infer', '--out', str(out)])
    assert 'infer resnet50, ' in capsys.readouterr().err
    assert len(cost.read(out)['measurements']) == 1

    with pytest.raises(TypeError):
        cost.write_json(dict(a=out), out)
    assert list(tmp_path.iterdir()) == [out]
    assert len(cost.read(out)['measurements']) == 1


def test_profile(capsys):
    tool.main(
        [
            '--what',
            'tail',
            '--model',
            'resnet18',
            '--batch',
            '2',
            '--size',
            '32',
            '--device',
            'cpu',
            '--profile',
            'ra-naive',
        ]
    )
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
    sweep = cases(
        '--sweep',
        '--batch',
        '4',
        '8',
        '--size',
        '64',
        '32',
        '--model',
        'resnet18',
        'resnet50',
    )
    assert sweep == [
        case(batch=4, size=64),
        case(batch=4, size=64, model='resnet50'),
        case(batch=8, size=64),
        case(batch=4, size=32),
    ]


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--model', 'vgg16'], "invalid choice: 'vgg16' (choose from "),
        (['--variants', 'ra'], "invalid choice: 'ra' (choose from 'plain', "),
        (['--batch', '0'], '--batch: 0: expected 1 or more'),
        (['--size', '1e3'], '--size: 1e3: expected 1 or more'),
        (['--rounds', '1'], '--rounds 1: quartiles need 2 or more'),
        (['--sweep', '--what', 'detector'], '--sweep: expected one of --what'),
        (['--what', 'detector', '--model', 'resnet18'], 'only model is resnet50'),
        (['--what', 'detector', '--variants', 'ra+compile'], 'no variants with'),
        (['--plot'], '--plot: draws what --out writes'),
        (['--out', 'a.png'], '--out a.png: expected a name with .json'),
        (['--replot', 'none.json'], "No such file or directory: 'none.json'"),
        (
            ['--what', 'train', '--model', 'resnet18', '--size', '32', '--batch', '1'],
            'Expected more than 1 value per channel',
        ),
    ],
)
def test_mistakes(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        tool.main(['--device', 'cpu', *argv])
    assert error.value.code != 0
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu(capsys):
    with pytest.raises(SystemExit):
        tool.main(['--device', 'cuda'])
    assert 'torch finds no GPU here' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['{', '[]', '{}', '{"measurements": [{}]}'])
def test_replot_of_something_else(text, tmp_path, capsys):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(SystemExit):
        tool.main(['--replot', str(tmp_path / 'a.json')])
    assert 'a.json has no results: expected' in capsys.readouterr().err


def test_default_name():
    args = tool.parse_args(['--device', 'cpu', '--sweep', '--out'])
    assert args.out == tool.RESULTS / 'cpu_sweep.json'
