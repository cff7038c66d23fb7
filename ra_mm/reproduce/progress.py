"""Prints what happens during a reproduction and estimates the time left."""

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

TTY_INTERVAL_S, LOG_INTERVAL_S = 1, 600


def format_duration(seconds: float) -> str:
    """Format as '12 s', '3.1 min' or '12.7 h'."""
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'


class Work(NamedTuple):
    """A run as :func:`seconds_left` sees it."""

    kind: Any  # runs of one kind take time in proportion to their length
    length: int  # of the schedule, in epochs or iterations
    status: str  # as in the ledger
    seconds: float  # trained so far
    fraction: float  # done


def seconds_left(works: Sequence[Work]) -> float | None:
    """Estimate the seconds until all runs are done; None without any data.

    A run is expected to take as long as others of its kind, in proportion to
    its length, or as long as the average run if its kind is new.
    """
    known = {}
    for work in works:
        if work.fraction > 0.02:
            total = work.seconds / work.fraction
            known.setdefault(work.kind, []).append((total, work.length))
    totals = [total for kind in known.values() for total, _ in kind]
    if not totals:
        return None
    left = 0.0
    for work in works:
        if work.status in ('waiting', 'running'):
            total = sum(totals) / len(totals)
            if work.kind in known:
                seconds, lengths = map(sum, zip(*known[work.kind]))
                total = seconds / lengths * work.length
            left += total * (1 - work.fraction)
    return left


class Display:
    """Prints one line for each event, and a progress line in between."""

    def __init__(self) -> None:
        self.tty = sys.stdout.isatty()
        self.interval = TTY_INTERVAL_S if self.tty else LOG_INTERVAL_S
        self.last_progress = time.monotonic()

    def event(self, text: str) -> None:
        clear = '\r\033[K' if self.tty else ''
        print(f'{clear}{time.strftime("%H:%M:%S")} {text}', flush=True)

    def is_due(self) -> bool:
        """Whether it is time for another progress line."""
        return time.monotonic() - self.last_progress >= self.interval

    def progress(self, name: str, fraction: float, works: Sequence[Work]) -> None:
        """Print how far the current run and all runs are."""
        self.last_progress = time.monotonic()
        states = [work.status for work in works]
        left = seconds_left(works)
        text = (
            f'{states.count("done")} of {len(states)} runs done'
            + (f', {states.count("failed")} failed' if 'failed' in states else '')
            + f'; {name} at {fraction:.0%}'
            + (f', about {format_duration(left)} left for all' if left else '')
        )
        if self.tty:
            print(f'\r\033[K{text}', end='', flush=True)
        else:
            self.event(text)
