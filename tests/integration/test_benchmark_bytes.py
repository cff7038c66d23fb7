"""tools/benchmark.py --bytes."""

import pytest

SMALL = '--model resnet18 --batch 2 --size 32 --device cpu'.split()


def test_bytes(tool, capsys):
    """A row for each uncompiled variant, the same at each call."""
    argv = [
        '--what',
        'tail',
        *SMALL,
        '--bytes',
        '--variants',
        'ra-given',
        'ra-compiled',
    ]
    tool('benchmark')(*argv)
    out = capsys.readouterr().out
    assert out.startswith('tail resnet18, cpu fp32 nchw, 2 x 32 px')
    rows = [line.split('|')[1].strip() for line in out.splitlines() if '|' in line]
    assert rows[2:] == ['each tensor once', 'plain', 'ra-given']
    tool('benchmark')(*argv)
    assert capsys.readouterr().out == out


def test_bytes_of_tails_only(tool, capsys):
    with pytest.raises(SystemExit):
        tool('benchmark')('--what', 'train', '--bytes')
    assert '--bytes' in capsys.readouterr().err
