"""Arguments that the command line tools share."""

import os.path as osp
import re
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

from mmengine.config import DictAction

QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)


def get_parser(prog: str, description: str) -> ArgumentParser:
    """Create a parser of the options that training and testing share."""
    parser = ArgumentParser(prog=prog, description=description)
    add = parser.add_argument
    add('config', help='config file of any of the toolboxes')
    what = 'folder for logs and checkpoints, by default the one in the config, or else '
    add('--work-dir', help=f'{what}./work_dirs/<name of the config>')
    add_cfg_options(parser)
    what = 'how the processes are started, pytorch for torchrun'
    launchers = ('none', 'pytorch', 'slurm', 'mpi')
    add('--launcher', choices=launchers, default='none', help=what)
    # torch.distributed.launch passes --local-rank, or --local_rank before
    # PyTorch 2.0.
    add('--local_rank', '--local-rank', type=int, default=0)
    return parser


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'{text}: expected 1 or more')
    return int(text)


def key_value(text: str) -> str:
    if '=' not in text:
        raise ArgumentTypeError(f'{text!r} is not of the form KEY=VALUE')
    return text


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``, as in all OpenMMLab tools."""
    what = 'settings that override the config: key=value, and key="[a,b]" or key=a,b '
    what += 'for a list; a text with commas needs quotes of its own: "key=\'a, b\'"'
    pairs: dict = dict(nargs='+', type=key_value, metavar='KEY=VALUE')
    parser.add_argument('--cfg-options', action=OptionsAction, help=what, **pairs)


class OptionsAction(Action):
    """Collect ``KEY=VALUE`` in a dict, as mmengine's DictAction does.

    That action removes all spaces and splits at commas, which corrupts paths. This
    action keeps them verbatim or raises an error.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, _, value = text.partition('=')
            try:
                options[key] = parse_value(value)
            except ArgumentTypeError as e:
                parser.error(f'{option_string} {key}={value}: {e}')
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """Parse a number, a bool, None, a list in brackets or with commas, or text.

    Raises:
        ArgumentTypeError: If the value might mean several things.
    """
    quoted = QUOTED.fullmatch(text)
    value = quoted[2] if quoted else text
    if not value.startswith(('[', '(')):
        is_text = ' ' in value or '/' in value
        if (quoted and (is_text or ',' in value)) or (is_text and osp.exists(value)):
            return value
        if ',' not in value:
            return value if is_text else _parse_with_mmengine(value)
        if '/' in value:
            advice = f'or "\'{value}\'" for a path with commas'
            raise ArgumentTypeError(f'write [{value}] for a list, {advice}')
    if re.search(r'[^\s,(\[] +[^\s,)\]]', value):
        text = 'the spaces within an item of a list would be lost; for one text with'
        raise ArgumentTypeError(f'{text} commas, write "\'{value}\'"')
    try:
        return _parse_with_mmengine(value)
    except AssertionError as e:
        raise ArgumentTypeError('its brackets do not match') from e


def _parse_with_mmengine(value):
    parsed = Namespace()
    DictAction([], 'options')(ArgumentParser(), parsed, [f'value={value}'])
    return parsed.options['value']


class ShapeAction(Action):
    """One or two numbers, as a tuple of height and width."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2 or min(values) < 1:
            text = f'{option_string} {" ".join(map(str, values))}: expected height and'
            parser.error(f'{text} width, or one number for both')
        setattr(namespace, self.dest, (values[0], values[-1]))


def add_shape_argument(
    parser: ArgumentParser, help: str, default: tuple[int, int] | None = None
) -> None:
    """Add ``--shape HEIGHT WIDTH`` or ``--shape SIDE``, in pixels.

    Args:
        parser (ArgumentParser): The parser to extend.
        help (str): What has this shape, and the default.
        default (tuple[int, int], optional): Height and width.
    """
    numbers: dict = dict(type=int, nargs='+', action=ShapeAction, metavar='PIXELS')
    parser.add_argument('--shape', default=default, help=help, **numbers)
