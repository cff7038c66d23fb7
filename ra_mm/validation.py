"""Argument checks whose errors name the argument."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of value: its description and a test that never raises."""

    expected: str
    test: Callable[[Any], bool]

    def __or__(self, other: 'Kind') -> 'Kind':
        expected = f'{self.expected} or {other.expected}'
        return Kind(expected, lambda v: self.test(v) or other.test(v))


def check_arg(kind: Kind, **values: Any) -> None:
    """Check values that must all be of the same kind.

    Raises:
        ValueError: For the first value that does not. The message has its name.
    """
    for name, value in values.items():
        if not kind.test(value):
            raise ValueError(f'{name}={value!r}: expected {kind.expected}')


def shorten(names: Iterable, limit: int = 8) -> str:
    """Format the first few names in parentheses, and count the others."""
    names = [str(name) for name in names]
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return f'({", ".join(names[:limit])}{more})'


def integer(minimum: int) -> Kind:
    """An integer that is not below the minimum; a bool is not one."""
    is_high = number(minimum).test
    expected = f'an integer >= {minimum}'
    return Kind(expected, lambda v: isinstance(v, Integral) and is_high(v))


def number(minimum: float = -math.inf) -> Kind:
    """A finite number that is not below the minimum; a bool is not one."""

    def test(v):
        is_number = isinstance(v, Real) and not isinstance(v, bool)
        return is_number and v >= minimum and abs(v) < math.inf

    at_least = '' if minimum == -math.inf else f' >= {minimum}'
    return Kind(f'a number{at_least}', test)


def one_of(*choices: Any) -> Kind:
    """One of these values, of the same type: 1 is neither 1.0 nor True."""
    return Kind(
        f'one of {", ".join(map(repr, choices))}',
        lambda v: any(type(v) is type(c) and v == c for c in choices),
    )


def list_of(kind: Kind) -> Kind:
    """A sequence, but no string, of one or more items."""

    def test(v):
        is_list = isinstance(v, Sequence) and not isinstance(v, str) and len(v) > 0
        return is_list and all(map(kind.test, v))

    return Kind(f'a list of one or more, each {kind.expected}', test)


POSITIVE = Kind('a number > 0', lambda v: number(0).test(v) and v > 0)
BOOL = Kind('True or False', lambda v: isinstance(v, bool))
STR = Kind('a string', lambda v: isinstance(v, str))
NONE = Kind('None', lambda v: v is None)
BUILD_CFG = Kind(
    "a dict with a 'type'", lambda v: isinstance(v, Mapping) and bool(v.get('type'))
)
