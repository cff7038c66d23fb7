"""The error that tools report without a traceback, and warnings."""

import os
import sys


class UserError(Exception):
    """A mistake that the user can correct.

    The message names the wrong value, what was expected, and what to do.
    Tools print it and exit with status 1.
    """


def warn(message: str) -> None:
    """Print a warning, once for all processes of a machine."""
    if int(os.environ.get('LOCAL_RANK', 0)) == 0:
        print(f'warning: {message}', file=sys.stderr)
