"""Translation of exceptions into the message of a UserError."""

import pytest

from ra_mm.errors import UserError, translate_errors


@pytest.mark.parametrize(
    'error, message',
    [
        (ValueError('depth=51'), 'it fails: depth=51'),
        (FileNotFoundError('a.png'), 'it fails: a.png'),
        (KeyError('RAResNt is not there'), 'it fails: KeyError: RAResNt is not there'),
        (TypeError('no max_epoch'), 'it fails: TypeError: no max_epoch'),
    ],
)
def test_translation(error, message):
    with pytest.raises(UserError) as e, translate_errors('it fails'):
        raise error
    assert str(e.value) == message
    assert e.value.__cause__ is error


class Group(Exception):  # as ExceptionGroup, which Python 3.10 lacks
    exceptions = (ValueError('b=1'), KeyError())


class Abstract:
    def __init__(self, error):
        raise error


@pytest.mark.parametrize(
    'error',
    [
        *(NotImplementedError, KeyError(), KeyError(19), ValueError(' \n')),
        *(AssertionError(None), RecursionError('maximum depth'), SystemExit(2)),
    ],
)
def test_error_without_a_text(error):
    with pytest.raises(UserError) as e, translate_errors('it fails'):
        Abstract(error)
    assert f'__init__ ({__file__}' in str(e.value)
    assert '\n' not in str(e.value)


def test_group_of_errors():
    with pytest.raises(UserError, match='it fails: b=1$'), translate_errors('it fails'):
        raise Group


def test_missing_package():
    with pytest.raises(UserError, match='check_env'), translate_errors('it fails'):
        raise ImportError('no mmdet')


def test_import_that_fails_in_a_module_of_the_user():
    error = ImportError('cannot import my_module')
    error.__cause__ = ImportError("No module named 'my_dependency'")
    with pytest.raises(UserError, match='my_dependency'), translate_errors('it fails'):
        raise error


@pytest.mark.parametrize('error', [UserError('once'), KeyboardInterrupt()])
def test_not_translated(error):
    with pytest.raises(type(error)) as e, translate_errors('it fails'):
        raise error
    assert e.value is error
