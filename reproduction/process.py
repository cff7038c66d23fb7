"""Child processes of a reproduction, and the lock of its folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ra_mm.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system; the report can still be written
    fcntl = None  # type: ignore[assignment]

STOP_TIMEOUT_S = 30
MAX_SILENCE_S = 600  # of a process on another machine


class Lock:
    """A locked file that says who uses the folder, and what stops the trainings.

    Args:
        file: The file.
        owner: Another file, whose date says that this process is alive.
    """

    def __init__(self, file: IO[str], owner: Path | None = None) -> None:
        self.file, self.owner = file, owner
        self.groups: set[int] = set()
        self.threads = threading.Lock()
        self.note()

    def note(self, *groups: int) -> None:
        """Rewrite the file after process groups have started, or have ended."""
        with self.threads:
            self.groups ^= {*groups}
            stops = (f'`kill -- -{group}` stops a training' for group in self.groups)
            self.file.truncate(0)
            self.file.write('; '.join([f'process {os.getpid()}', *stops, '']))
            self.file.flush()

    def renew(self) -> None:
        """Say that this process is alive."""
        if self.owner:
            self.owner.touch()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[Lock]:
    """Keep other processes from training in the same folder.

    A child process that inherits the file keeps the lock until it ends, so a
    training that outlives a killed parent still holds it. Between machines that
    share the folder, where such locks may have no effect, another file is the lock
    as long as it is new or renewed.

    Raises:
        UserError: If another process has the lock.
    """
    if fcntl is None:
        raise UserError(
            f'training needs Linux or macOS, this is {sys.platform}; '
            '`tools/reproduce.py report FOLDER` works here'
        )
    host, owner = socket.gethostname(), folder / '.host'
    with open(folder / '.lock', 'a+', encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f'another tools/reproduce.py, or a training that it started, is '
                f'running in {folder} ({file.read()}): wait for it, stop it, or '
                'choose another folder with --out'
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            with open(owner, 'x', encoding='utf-8') as created:
                created.write(host)
        except FileExistsError:
            other = owner.read_text(encoding='utf-8')
            age = time.time() - owner.stat().st_mtime
            if other != host and age < MAX_SILENCE_S:
                raise UserError(
                    f'another tools/reproduce.py is running in {folder}, on {other}: '
                    f'if it was killed there {age:.0f} s ago, wait {MAX_SILENCE_S} s '
                    f'or delete {owner}'
                ) from None
            owner.write_text(host, encoding='utf-8')
        try:
            yield Lock(file, owner)
        finally:
            owner.unlink(missing_ok=True)


@contextlib.contextmanager
def start(
    command: Sequence[str], log: Path, held: Lock, env: Mapping[str, str]
) -> Iterator[subprocess.Popen]:
    """Run a command in its own process group, which is stopped on leaving.

    ``python`` in the command is this Python.

    Args:
        command: The command line.
        log: File to which its output is appended.
        held: From :func:`lock`, which the command then keeps until it ends.
        env: Environment variables in addition to those of this process.
    """
    scripts = os.path.dirname(sys.executable)
    path = f'{scripts}{os.pathsep}{os.environ["PATH"]}'
    with open(log, 'ab') as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PATH': path, **env},
            pass_fds=[held.file.fileno()],
            start_new_session=True,
        )
        try:
            held.note(process.pid)
            yield process
        finally:
            _stop(process)
            held.note(process.pid)


def _stop(process):
    """End a process group that is still running."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
