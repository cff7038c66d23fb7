"""Values that are refused where they enter, by their name."""
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Iterable, NamedTuple


class Kind(NamedTuple):
    """What a value is to be: in words, and as a test that never raises."""
    words: str
    test: Callable[[Any], bool]

    def __or__(self, other: 'Kind') -> 'Kind':
        return Kind(f'{self.words} or {other.words}',
                    lambda v: self.test(v) or other.test(v))


def expect(kind: Kind, **values) -> None:
    """Refuse the first of these values that is not of the kind.

    Raises:
        ValueError: It names the value and says what was expected.
    """
    for name, value in values.items():
        if not kind.test(value):
            raise ValueError(f'{name}={value!r}: expected {kind.words}')


def some(names: Iterable, most: int = 8) -> str:
    """The first few of the names, in brackets."""
    names = [str(name) for name in names]
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return f'({", ".join(names[:most])}{more})'


def whole(least: int, most: float = math.inf) -> Kind:
    """A whole number in this range; True and False are none."""
    return Kind(
        f'a whole number {_range(least, most)}',
        lambda v: isinstance(v, Integral) and not isinstance(v, bool) and
        least <= v <= most)


def number(least: float = -math.inf, most: float = math.inf) -> Kind:
    """A finite number in this range; True and False are none."""
    return Kind(
        f'a number {_range(least, most)}'.rstrip(),
        lambda v: isinstance(v, Real) and not isinstance(v, bool) and math.
        isfinite(v) and least <= v <= most)


def _range(least, most):
    if least == -math.inf:
        return ''
    return f'>= {least}' if most == math.inf else f'from {least} to {most}'


def one_of(*values) -> Kind:
    return Kind(f'one of {", ".join(map(repr, values))}',
                lambda v: any(v is known or type(v) is type(known) and
                              v == known for known in values))


def list_of(kind: Kind, length=None) -> Kind:
    """A list or the like, not empty, of a certain length if that is given."""
    return Kind(
        f'a list of {length or "one or more"}, each {kind.words}',
        lambda v: isinstance(v, Sequence) and not isinstance(v, str) and
        (len(v) == length if length else len(v) > 0) and all(
            map(kind.test, v)))


ABOVE_0 = Kind('a number above 0', lambda v: number(0).test(v) and v > 0)
BELOW_1 = Kind('a number >= 0 and below 1',
               lambda v: number(0, 1).test(v) and v < 1)
SWITCH = Kind('True or False', lambda v: isinstance(v, bool))
TEXT = Kind('a text', lambda v: isinstance(v, str))
NOTHING = Kind('None', lambda v: v is None)
DICT = Kind('a dict', lambda v: isinstance(v, Mapping))
TYPED = Kind("a dict with a 'type'",
             lambda v: isinstance(v, Mapping) and bool(v.get('type')))
TYPED_LIST = Kind(
    "a list of dicts with a 'type'",
    lambda v: isinstance(v, (list, tuple)) and all(map(TYPED.test, v)))
TYPEDS = TYPED | TYPED_LIST
