"""Print what happens during a reproduction, and the time that is left."""

import sys
import time
from collections.abc import Sequence

from .ledger import Entry, format_duration

TTY_INTERVAL_S, LOG_INTERVAL_S = 1, 600


def seconds_left(entries: Sequence[Entry]) -> float | None:
    """Estimate the seconds until all runs are done, from the time so far.

    Args:
        entries: Entries of the runs. All are taken to need the same time.
    """
    running = [entry for entry in entries if entry.status == 'running']
    ended = [entry for entry in entries if entry.status == 'done']
    done = len(ended) + sum(entry.progress for entry in running)
    failed = sum(entry.status == 'failed' for entry in entries)
    pending = len(entries) - failed - done
    seconds = sum(entry.wall_s for entry in ended + running)
    return seconds / done * pending / max(1, len(running)) if done else None


class Display:
    """Print one line for each event, and a progress line in between.

    Args:
        entries: Entries of all runs.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.tty = sys.stdout.isatty()
        self.last_progress = time.monotonic()

    def event(self, name: str, text: str) -> None:
        clear = '\r\033[K' if self.tty else ''
        print(f'{clear}{time.strftime("%H:%M:%S")} {name}: {text}', flush=True)

    def is_due(self) -> bool:
        """Whether it is time for another progress line."""
        interval = TTY_INTERVAL_S if self.tty else LOG_INTERVAL_S
        return time.monotonic() - self.last_progress >= interval

    def progress(self, name: str, fraction: float) -> None:
        """Print how much of a run and of all runs is done."""
        self.last_progress = time.monotonic()
        states = [entry.status for entry in self.entries]
        left = seconds_left(self.entries)
        text = (
            f'{fraction:.0%}; {states.count("done")} of {len(states)} runs done'
            + (f', {states.count("failed")} failed' if 'failed' in states else '')
            + (f', about {format_duration(left)} left for all' if left else '')
        )
        if self.tty:
            print(f'\r\033[K{name}: {text}', end='', flush=True)
        else:
            self.event(name, text)
