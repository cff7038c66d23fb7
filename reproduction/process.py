"""Child processes of a reproduction: one training at a time in a folder."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ra_mm.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system; the report can still be written
    fcntl = None  # type: ignore[assignment]

STOP_TIMEOUT_S = 30


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[TextIO]:
    """Keep other processes from training in the same folder.

    A child process that inherits the file keeps the lock until it ends, so a
    training that outlives a killed parent still holds it.

    Yields:
        The locked file, in which :func:`start` notes the training.

    Raises:
        UserError: If another process has the lock.
    """
    if fcntl is None:
        raise UserError(
            f'training needs Linux or macOS, this is {sys.platform}; '
            '`tools/reproduce.py report FOLDER` works here'
        )
    with open(folder / '.lock', 'a+', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f'another tools/reproduce.py, or a training that it started, is '
                f'running in {folder} ({file.read().strip()}): wait for it, stop it, or '
                'choose another folder with --out'
            ) from None
        _note(file, f'process {os.getpid()}')
        yield file


@contextlib.contextmanager
def start(
    command: Sequence[str], log: Path, lock_file: TextIO
) -> Iterator[subprocess.Popen]:
    """Run a command in its own process group, which is stopped on leaving.

    ``python`` in the command is this Python.

    Args:
        command: The command line.
        log: File to which its output is appended.
        lock_file: From :func:`lock`.
    """
    scripts = os.path.dirname(sys.executable)
    env = dict(os.environ, PATH=f'{scripts}{os.pathsep}{os.environ["PATH"]}')
    with open(log, 'ab') as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            pass_fds=(lock_file.fileno(),),
            start_new_session=True,
        )
        try:
            group = f'`kill -- -{process.pid}` stops its training'
            _note(lock_file, f'process {os.getpid()}; {group}')
            yield process
        finally:
            _stop(process)


def _stop(process):
    """End a process group that is still running."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)


def _note(file, text):
    """Replace the text of the lock file."""
    file.truncate(0)
    file.write(f'{text}\n')
    file.flush()
