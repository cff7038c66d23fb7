"""Each kind of value: what it accepts, what it rejects, and the message."""

import math
from collections import OrderedDict

import numpy as np
import pytest

from ra_mm.validation import (
    BOOL,
    BUILD_CFG,
    NONE,
    POSITIVE,
    STR,
    check_arg,
    integer,
    list_of,
    number,
    one_of,
    shorten,
)

nan, inf = math.nan, math.inf
TYPED = OrderedDict(type='A')
CASES = [
    (integer(1), [1, 10**9, np.int64(3)], [0, -1, 2.0, '1', True, None, nan, inf, [1]]),
    (number(), [-1, 0.5, np.float32(2)], ['1', True, None, nan, inf, -inf, 1j, [1]]),
    (number(0), [0, 0.5], [-0.1, inf]),
    (POSITIVE, [1e-9, 2], [0, -1, nan, inf, '1', True]),
    (one_of('a', 1), ['a', 1], ['b', True, 1.0, None, ['a'], nan]),
    (one_of(None, False), [None, False], [0, '']),
    (list_of(integer(0)), [[0], (1, 2), range(3)], [[], '12', 1, [-1], [None], {}]),
    (BOOL, [True, False], [0, 1, 'no', None, []]),
    (STR, ['', 'a'], [None, 1, b'a']),
    (NONE, [None], [0, False, '']),
    (NONE | STR, [None, 'a'], [0]),
    (BUILD_CFG, [dict(type='A'), TYPED], [{}, dict(typ='A'), dict(type=''), 'A', None]),
]


@pytest.mark.parametrize('kind, valid, invalid', CASES, ids=lambda c: str(c)[:40])
def test_kind(kind, valid, invalid):
    check_arg(kind, **{f'v{i}': value for i, value in enumerate(valid)})
    for value in invalid:
        with pytest.raises(ValueError) as error:
            check_arg(kind, good=valid[0], wrong=value)
        assert str(error.value) == f'wrong={value!r}: expected {kind.expected}'


def test_ranges_in_messages():
    assert integer(1).expected == 'an integer >= 1'
    assert number(0).expected == 'a number >= 0'
    assert number().expected == 'a number'
    assert list_of(STR).expected == 'a list of one or more, each a string'
    assert (NONE | STR).expected == 'None or a string'


def test_shorten():
    assert shorten([1, 'b']) == '(1, b)'
    assert shorten(range(10), 2) == '(0, 1 and 8 more)'
    assert shorten(iter(())) == '()'
