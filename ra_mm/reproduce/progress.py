"""Prints what happens during a reproduction and estimates the time left."""

import sys
import time
from collections.abc import Sequence

TTY_INTERVAL_S, LOG_INTERVAL_S = 1, 600


def format_duration(seconds: float) -> str:
    """Format as '12 s', '3.1 min' or '12.7 h'."""
    for unit, size in (('h', 3600), ('min', 60)):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'


def seconds_left(entries: Sequence[dict], fraction: float) -> float | None:
    """Estimate the seconds until all runs are done, from the time so far.

    Args:
        entries: The runs in the ledger. All are taken to need the same time.
        fraction: How much of the running one is done.
    """
    trained = [e for e in entries if e['status'] in ('done', 'running')]
    done = sum(e['status'] == 'done' for e in entries) + fraction
    if not done:
        return None
    pending = sum(e['status'] in ('waiting', 'running') for e in entries)
    return sum(e['wall_s'] for e in trained) / done * (pending - fraction)


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

    def progress(self, name: str, fraction: float, entries: Sequence[dict]) -> None:
        """Print how much of the current run and of all runs is done."""
        self.last_progress = time.monotonic()
        states = [entry['status'] for entry in entries]
        left = seconds_left(entries, fraction)
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
