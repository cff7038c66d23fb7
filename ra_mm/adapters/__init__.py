"""Annealing of temp in the training loops of other libraries.

Each module imports its library, so import the one that you need. The temp of a step
follows from its number and the weights, so that checkpoints need nothing besides them.
"""

import math
import warnings
from collections.abc import Iterable

from torch import nn

from ra_mm.layers import TempSchedule
from ra_mm.layers.temp_schedule import is_trained


def schedule_at(
    step: int,
    model: nn.Module | Iterable[nn.Module],
    length: int,
    start: float = 30.0,
    end: float = 1.0,
    total: float = math.inf,
) -> TempSchedule:
    """Make the schedule of a training that is at this step, be it new or resumed.

    Args:
        step (int): Steps that were done before.
        model, length, start, end: As for :class:`ra_mm.TempSchedule`.
        total (float): Steps of the whole training, where they are known.
    """
    schedule = TempSchedule(model, length, start, end)
    if 0 < total < length:
        text = f'temp falls in {length} steps, but the training ends after {total}'
        warnings.warn(f'{text}: anneal for about a tenth of it', stacklevel=3)
    left = 1 - step / length
    if is_trained(schedule.gates) and left > 0:
        start = end + (schedule.start - end) / left  # no jump from the weights' temp
    schedule.load_state_dict({**schedule.state_dict(), 'steps': step, 'start': start})
    return schedule
