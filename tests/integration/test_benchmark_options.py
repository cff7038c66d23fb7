"""The command line of the benchmark."""

import pytest
import torch

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.ops import dispatch


@pytest.fixture
def main(tool):
    """The tool's main()."""
    return tool('benchmark')


@pytest.mark.parametrize(
    'argv, argument',
    [
        ('--model vgg16', "'vgg16'"),
        ('--variants vanilla', "'vanilla'"),
        ('--batch 0', '--batch: 0'),
        ('--size 1e3', '--size: 1e3'),
        ('--rounds 1', '--rounds 1'),
        ('--minutes nan', '--minutes nan'),
        ('--sweep --what detector', '--sweep'),
        ('--what detector --model resnet18', 'resnet50'),
        ('--what detector --variants ra+compile', '+compile'),
        ('--plot', '--plot'),
        ('--out a.png', '--out a.png'),
        ('--gpu-report a.txt', '--gpu-report a.txt'),
        ('--gpu-report a.json --parts all', "'all'"),
        ('--replot none.json', 'none.json'),
    ],
)
def test_mistakes(argv, argument, main, capsys):
    with pytest.raises(SystemExit) as error:
        main('--device', 'cpu', *argv.split())
    assert error.value.code != 0
    assert argument in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('argv', ['--device cuda', '--gpu-report a.json'])
def test_no_gpu(argv, main, capsys):
    with pytest.raises(SystemExit):
        main(*argv.split())
    assert 'finds no GPU' in capsys.readouterr().err


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='PyTorch < 2.5 compiles nothing')
def test_failing_compiler(message, tool, monkeypatch, tmp_path):
    """The uncompiled code is not measured in its place."""

    def compile(function):
        raise RuntimeError('no such compiler')

    monkeypatch.setattr(dispatch, '_compilation_failed', False)
    monkeypatch.setattr(dispatch, '_compile', compile)
    small = '--what tail --model resnet18 --batch 2 --size 32 --device cpu'.split()
    argv = [*small, '--variants', 'ra-compiled', '--out', tmp_path / 'a.json']
    text = message(tool('benchmark'), *argv)
    assert 'no such compiler' in text and '--variants' in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'text', ['{', '[]', '{}', '{"measurements": [{}]}', '{"parts": [{}]}']
)
def test_replot_of_something_else(text, tmp_path, main, capsys):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(SystemExit):
        main('--replot', tmp_path / 'a.json')
    assert 'a.json has no results' in capsys.readouterr().err
