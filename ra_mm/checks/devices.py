"""The processes of a run, and their GPUs."""

import os
from collections.abc import Iterator

import torch

from ra_mm.checks.context import Context
from ra_mm.checks.finding import Finding, error, warning


def check_processes(context: Context) -> Iterator[Finding]:
    """Processes that belong together know of each other, and have a GPU."""
    n = int(os.environ.get('WORLD_SIZE', 1))
    if context.cfg.launcher == 'none' and n > 1:
        yield error(f'{n} processes would run independently: pass --launcher pytorch')
    if not torch.cuda.is_available():
        yield warning(f'no GPU: {context.mode}ing on the CPU')
