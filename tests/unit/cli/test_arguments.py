"""Values of --cfg-options: paths stay as typed, lists and numbers are parsed."""

from argparse import ArgumentParser

import pytest

from ra_mm.cli import add_cfg_options
from ra_mm.cli.arguments import parse_value


@pytest.mark.parametrize(
    'text, value',
    [
        ('3', 3),
        ('1e-3', 1e-3),
        ('true', True),
        ('None', None),
        ('SGD', 'SGD'),
        ('a,b', ['a', 'b']),
        ('[1, 2]', [1, 2]),
        ('[(1,2),[a,b]]', [(1, 2), ['a', 'b']]),
        ('(64,64)', (64, 64)),
        ('[]', []),
        ("'[a,b]'", ['a', 'b']),
        ('[a/b,c/d]', ['a/b', 'c/d']),
        ('my data', 'my data'),
        ('/data/my data (größe)#1/x', '/data/my data (größe)#1/x'),
        ("'/data/a, b/x'", '/data/a, b/x'),
        ("'a, b'", 'a, b'),
    ],
)
def test_value(text, value):
    assert parse_value(text) == value


def test_path_with_commas_that_exists(tmp_path):
    path = tmp_path / 'my data, v2 (größe)#1'
    path.mkdir()
    assert parse_value(str(path)) == str(path)


@pytest.mark.parametrize(
    'option', ['a=/data/a,b', 'a=my data, v2', 'a=[a,b', 'a=[my data,b]', 'model']
)
def test_wrong_option(option, capsys):
    """Values that might mean several things, and an option without a value."""
    parser = ArgumentParser()
    add_cfg_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', option])
    assert option in capsys.readouterr().err


def test_options_add_up():
    parser = ArgumentParser()
    add_cfg_options(parser)
    args = parser.parse_args(['--cfg-options', 'a=1', '--cfg-options', 'b=x=y'])
    assert args.cfg_options == dict(a=1, b='x=y')
