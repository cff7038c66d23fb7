"""Values that are refused where they enter, by their name."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """What a value is to be: in words, and as a test that never raises."""

    words: str
    test: Callable[[Any], bool]

    def __or__(self, other: 'Rule') -> 'Rule':
        return Rule(
            f'{self.words} or {other.words}', lambda v: self.test(v) or other.test(v)
        )


def check_arg(kind: Rule, **values) -> None:
    """Refuse the first of these values that is not of the kind.

    Raises:
        ValueError: It names the value and says what was expected.
    """
    for name, value in values.items():
        if not kind.test(value):
            raise ValueError(f'{name}={value!r}: expected {kind.words}')


def shorten(names: Iterable, most: int = 8) -> str:
    """The first few of the names, in brackets."""
    names = [str(name) for name in names]
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'({", ".join(names[:most])}{more})'


def integer(least: int, most: float = math.inf) -> Rule:
    """A whole number in this range; True and False are none."""
    return Rule(
        f'a whole number {_range(least, most)}',
        lambda v: (
            isinstance(v, Integral) and not isinstance(v, bool) and least <= v <= most
        ),
    )


def number(least: float = -math.inf, most: float = math.inf) -> Rule:
    """A finite number in this range; True and False are none."""
    return Rule(
        f'a number {_range(least, most)}'.rstrip(),
        lambda v: (
            isinstance(v, Real)
            and not isinstance(v, bool)
            and math.isfinite(v)
            and least <= v <= most
        ),
    )


def _range(least, most):
    if least == -math.inf:
        return ''
    return f'>= {least}' if most == math.inf else f'from {least} to {most}'


def one_of(*values) -> Rule:
    return Rule(
        f'one of {", ".join(map(repr, values))}',
        lambda v: any(
            v is known or type(v) is type(known) and v == known for known in values
        ),
    )


def list_of(kind: Rule, length=None) -> Rule:
    """A list or the like, not empty, of a certain length if that is given."""
    return Rule(
        f'a list of {length or "one or more"}, each {kind.words}',
        lambda v: (
            isinstance(v, Sequence)
            and not isinstance(v, str)
            and (len(v) == length if length else len(v) > 0)
            and all(map(kind.test, v))
        ),
    )


POSITIVE = Rule('a number above 0', lambda v: number(0).test(v) and v > 0)
BELOW_1 = Rule('a number >= 0 and below 1', lambda v: number(0, 1).test(v) and v < 1)
BOOL = Rule('True or False', lambda v: isinstance(v, bool))
STR = Rule('a text', lambda v: isinstance(v, str))
NONE = Rule('None', lambda v: v is None)
DICT = Rule('a dict', lambda v: isinstance(v, Mapping))
BUILD_CFG = Rule(
    "a dict with a 'type'", lambda v: isinstance(v, Mapping) and bool(v.get('type'))
)
BUILD_CFG_LIST = Rule(
    "a list of dicts with a 'type'",
    lambda v: isinstance(v, (list, tuple)) and all(map(BUILD_CFG.test, v)),
)
BUILD_CFGS = BUILD_CFG | BUILD_CFG_LIST
