import os
import signal
import time

import pytest

from ra_mm.errors import UserError
from reproduction import process
from reproduction.process import lock, start

# A training with a child, such as torchrun, that says when both are running.
TRAINING = """
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


def test_leaving_stops_the_whole_process_group(tmp_path):
    log = tmp_path / 'log'
    with lock(tmp_path) as file, pytest.raises(KeyboardInterrupt):
        with start(['python', '-c', TRAINING], log, file, {}) as training:
            wait_for(lambda: log.read_text().endswith('\n'))
            raise KeyboardInterrupt
    assert training.returncode == -signal.SIGTERM
    child = int(log.read_text())
    # Without init as the parent of orphans, it may stay as a zombie.
    wait_for(
        lambda: (
            not is_alive(child)
            or ') Z ' in open(f'/proc/{child}/stat', encoding='utf-8').read()
        )
    )


def test_locked_by_another(tmp_path):
    with lock(tmp_path):
        with pytest.raises(UserError, match=f'process {os.getpid()}'):
            with lock(tmp_path):
                pass
    with lock(tmp_path):
        pass


def test_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(process, 'fcntl', None)
    with pytest.raises(UserError, match='report'):
        with lock(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_locked_on_another_machine(tmp_path):
    """Where the file system has no locks; the file also stays after a kill."""
    (tmp_path / '.host').write_text('elsewhere')
    with pytest.raises(UserError, match='on elsewhere: .*/.host'):
        with lock(tmp_path):
            pass
    os.utime(tmp_path / '.host', (0, 0))  # its process was killed long ago
    with lock(tmp_path) as held:
        held.renew()
        assert (tmp_path / '.host').stat().st_mtime > 0
    (tmp_path / '.host').write_text(os.uname().nodename)  # killed here
    with lock(tmp_path):
        pass
    assert not (tmp_path / '.host').exists()
