"""The values of ``--cfg-options``: numbers, lists, and text that stays as typed."""

import os.path as osp
import re
from argparse import Action, ArgumentTypeError
from typing import Any

from mmengine.config import DictAction

QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)


class OptionsAction(Action):
    """Collect ``KEY=VALUE`` in a dict, as mmengine's DictAction does.

    That action removes all spaces and splits at commas, so that it would change
    paths that have them. Here they stay as they are typed, or are refused.
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
            return value if is_text else DictAction._parse_iterable(value)
        if '/' in value:
            raise ArgumentTypeError(
                f'write [{value}] for a list, or "\'{value}\'" for a path with commas'
            )
    if re.search(r'[^\s,(\[] +[^\s,)\]]', value):
        raise ArgumentTypeError(
            'the spaces within an item of a list would be lost; for one text with '
            f'commas, write "\'{value}\'"'
        )
    try:
        return DictAction._parse_iterable(value)
    except AssertionError as e:
        raise ArgumentTypeError('its brackets do not match') from e
