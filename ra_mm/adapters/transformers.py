"""Annealing of temp in a training by the Trainer of transformers."""

from typing import Any

from transformers import TrainerCallback

from . import schedule_at


class TempCallback(TrainerCallback):
    """Anneal the temp of a model: ``Trainer(..., callbacks=[TempCallback(1000)])``.

    Args:
        length (int): Number of optimizer steps that the annealing takes.
        **options: start and end, as for :class:`ra_mm.TempSchedule`.
    """

    def __init__(self, length: int, **options: float) -> None:
        self.length, self.options = length, options

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any
    ) -> None:
        step, total = state.global_step, state.max_steps
        self.schedule = schedule_at(
            step, model, self.length, total=total, **self.options
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.schedule.step()
