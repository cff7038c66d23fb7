"""How a command line tool ends when something fails."""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from ra_mm.errors import UserError


@contextmanager
def report_user_errors(prog: str) -> Iterator[SimpleNamespace]:
    """Print a user's mistake as one message and exit with status 1.

    The traceback goes to a file, which the message names. Other exceptions than
    :class:`.UserError` are bugs and keep their traceback. Ctrl-C exits with
    status 130, also where a library replaces its KeyboardInterrupt by another
    exception, as mmengine does while it formats a config for a checkpoint.

    Args:
        prog (str): The name of the tool, to begin the message with.

    Yields:
        SimpleNamespace: Set its ``work_dir`` to get the file there. If it is
        not set or does not exist, the file is a temporary one.
    """
    run = SimpleNamespace(work_dir=None)
    if int(os.environ.get('RANK', 0)):
        prog = f'{prog} (process {os.environ["RANK"]})'
    try:
        yield run
    except (Exception, KeyboardInterrupt) as e:
        if _is_interrupted(e):
            print(f'{prog}: interrupted', file=sys.stderr)
            sys.exit(130)
        if not isinstance(e, UserError):
            raise
        # A DataLoader re-raises an error of a worker with the traceback as its
        # message, which ends with our message.
        cls = f'{UserError.__module__}.{UserError.__qualname__}: '
        message = str(e).rpartition(cls)[2].strip()
        path = _write_traceback(run.work_dir)
        print(f'{prog}: error: {message}\n(traceback in {path})', file=sys.stderr)
        sys.exit(1)


def _is_interrupted(error):
    """Whether Ctrl-C led to an exception."""
    seen, chain = set(), [error]
    while chain:
        error = chain.pop()
        if isinstance(error, KeyboardInterrupt):
            return True
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            chain += [error.__cause__, error.__context__]
    return False


def _write_traceback(work_dir):
    """Write the traceback where possible, and return the name of the file."""
    for folder in (work_dir or None, None):
        try:
            with tempfile.NamedTemporaryFile(
                'w', dir=folder, prefix='error_', suffix='.log', delete=False
            ) as f:
                f.write(traceback.format_exc())
            return f.name
        except OSError:  # no such folder yet, or a full disk
            pass
    return 'no file, since none can be written'
