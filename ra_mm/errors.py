"""UserError, and a context manager that converts other exceptions to it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can correct.

    The message names the wrong value, what was expected, and what to do.
    Tools print it without a traceback and exit with status 1.
    """


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Turn any exception into a :class:`UserError`.

    It wraps calls of other people's code that does what a config says. Keep the
    wrapped call short: a bug in there loses its traceback on the screen.

    Args:
        what: What could not be done, to begin the message with.

    Raises:
        UserError: With the message of the exception, which becomes its cause.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as e:
        raise UserError(f'{what}: {describe(e)}') from e


def describe(error: BaseException) -> str:
    """Format an exception as one message, with its class where that helps.

    An exception without a sentence is described by the line of code that raised it.
    """
    if errors := getattr(error, 'exceptions', ()):  # of an ExceptionGroup
        return describe(errors[0])
    # str() of a KeyError is the repr of its message.
    text = str(*error.args[:1]) if isinstance(error, KeyError) else str(error)
    text = '' if text == 'None' else text.strip()
    if isinstance(error, ImportError):
        cause = error.__cause__  # of a module in custom_imports, for example
        text += f': {cause}' if cause else ''
        text += ' (run `python -m ra_mm.check_env` to check the installation)'
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    is_bare = ' ' not in text or isinstance(error, (IndexError, RecursionError))
    if is_bare and error.__traceback__:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        code = frame.f_code
        name = getattr(code, 'co_qualname', code.co_name)  # since Python 3.11
        text += f' raised by {name} ({code.co_filename}, line {line})'
    return f'{type(error).__name__}: {text.strip()}'.removesuffix(': ')
