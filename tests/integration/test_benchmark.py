"""The command line of tools/benchmark.py, on small inputs."""

import json

import pytest
import torch

from benchmarks import command
from benchmarks.cases import VARIANTS, Case
from benchmarks.measuring import Step
from benchmarks.recording import read_results
from ra_mm._torch import cpu_mixes_dtypes

SMALL = '--model resnet18 --batch 2 --size 32 --device cpu'.split()


def case(what='train', **settings):
    usual = dict(model='resnet18', device='cpu', precision='fp32', layout='nchw')
    usual |= dict(batch=2, size=32)
    return Case(what, **(usual | settings))


def step(variant, **kwargs):
    of = case(**kwargs)
    return Step(of, variant, of.inputs())


@pytest.fixture
def main(tool):
    return tool('benchmark')


def test_results_and_their_picture(main, tmp_path, capsys):
    """Each measurement is printed and written, and can be shown again."""
    out = tmp_path / 'new/cpu.json'
    argv = ['infer', *SMALL, '--layout', 'nchw', 'nhwc', '--variants', 'ra-fused']
    argv += ['--rounds', '2', '--out', str(out)]
    main(*argv)
    data = json.loads(out.read_text())
    assert data['environment']['command'].endswith(' '.join(argv))
    assert data['environment']['torch'] == torch.__version__
    assert [m['layout'] for m in data['measurements']] == ['nchw', 'nhwc']
    for m in data['measurements']:
        assert [r['variant'] for r in m['results']] == ['plain', 'ra-fused']
        assert all(len(r['pairs_ms']) == 2 for r in m['results'])
    printed = capsys.readouterr()
    assert '[2/2] infer resnet18' in printed.err
    assert 'round 2 of 2, 0.0 minutes left' in printed.err
    main('show', out)
    assert capsys.readouterr().out == printed.out
    picture = out.with_suffix('.png')
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert sorted(out.parent.iterdir()) == [out, picture]


def test_results_survive_a_failure(main, message, tmp_path, monkeypatch):
    def measure_case(case, *_):
        if case.layout == 'nhwc':
            raise torch.cuda.OutOfMemoryError
        return dict(vars(case), rounds=2, number=1, results=[])

    monkeypatch.setattr(command, 'measure_case', measure_case)
    out = tmp_path / 'cpu.json'
    argv = ['train', '--layout', 'nchw', 'nhwc', '--out', out]
    assert 'resnet50' in message(main, *argv)
    assert len(read_results(out)['measurements']) == 1


@pytest.mark.skipif(not cpu_mixes_dtypes(), reason='PyTorch 2.1 on a CPU')
def test_gpu_report(main, tmp_path, capsys):
    """A trial on the CPU; what is done is kept on --resume, and shown again."""
    out = tmp_path / 'report.json'
    names = ['exactness', 'train-32']
    for runs in (True, False):
        main('gpu-report', out, *'--device cpu --tiny --resume --parts'.split(), *names)
        printed = capsys.readouterr()
        parts = {part['name']: part for part in read_results(out)['parts']}
        assert list(parts) == names
        assert all(part['status'] == 'done' for part in parts.values()), parts
        assert ('exactness: starts' in printed.err) == runs
    exactness = parts['exactness']['results']
    assert len(exactness) == 3 * 3 * 2 * 2  # paths, dtypes, layouts, modes
    assert all(
        error['norm'] < dict(fp32=1e-6, bf16=1e-2, fp16=2e-3)[r['dtype']]
        for r in exactness
        for error in r['errors'].values()
    )
    assert parts['train-32']['results'][0]['layout'] == 'nhwc'
    main('show', out)
    assert capsys.readouterr().out == printed.out


def list_cases(*argv):
    return command.list_cases(command.parse_args([*argv, '--device', 'cpu']))


def test_cases():
    assert list_cases('train') == [case(model='resnet50', batch=4, size=224)]
    assert list_cases('detector', '--precision', 'fp32', 'amp') == [
        case('detector', model='resnet50', batch=2, size=256),
        case('detector', model='resnet50', batch=2, size=256, precision='amp'),
    ]
    lists = '--batch 4 8 --size 64 32 --model resnet18 resnet50'.split()
    assert list_cases('sweep', *lists) == [
        case(batch=4, size=64),
        case(batch=4, size=64, model='resnet50'),
        case(batch=8, size=64),
        case(batch=4, size=32),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('argv', ['train --device cuda', 'gpu-report a.json'])
def test_no_gpu(argv, main, message):
    assert '--device cuda' in message(main, *argv.split())


@pytest.mark.parametrize('text', ['{', '[]', '{}'])
def test_a_file_without_results(text, tmp_path, main, message):
    (tmp_path / 'a.json').write_text(text)
    assert 'a.json' in message(main, 'show', tmp_path / 'a.json')


@pytest.mark.parametrize('variant', [v for v in VARIANTS if not VARIANTS[v].compiles])
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


@pytest.mark.parametrize('what', ['detector', 'segmenter'])
def test_dense_models(what):
    """The first losses of RA and the plain model, on the same inputs, are close."""
    losses = [
        step(variant, what=what, model='resnet50', batch=2, size=64).forward().item()
        for variant in ('plain', 'ra-fused')
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_saved_bytes_are_no_parameters():
    """Parameters and their copies under autocast do not count."""
    one, two, three = (
        step('plain', precision='amp', batch=n, size=64).saved_bytes()
        for n in (1, 2, 3)
    )
    assert three - two == two - one
    # Only two floats per channel and the loss's weight do not grow.
    assert 0 <= 2 * one - two - 2 * 4 * 4800 < 100
