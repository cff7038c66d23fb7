"""Annealing of temp in a training by Lightning."""

import math
from typing import Any

from lightning.pytorch import Callback

from . import schedule_at


class TempCallback(Callback):
    """Anneal the temp of a LightningModule: ``Trainer(callbacks=[TempCallback(1000)])``.

    That of a ``WeightAveraging`` callback among the callbacks is annealed, too.

    Args:
        length (int): Number of optimizer steps that the annealing takes.
        **options: start and end, as for :class:`ra_mm.TempSchedule`.
    """

    def __init__(self, length: int, **options: float) -> None:
        self.length, self.options = length, options

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        averages = [getattr(c, '_average_model', None) for c in trainer.callbacks]
        models = [pl_module, *(model for model in averages if model is not None)]
        steps = trainer.estimated_stepping_batches  # one of the optimizer in each batch
        total = steps if pl_module.automatic_optimization else math.inf
        options = dict(self.options, total=total)
        self.schedule = schedule_at(trainer.global_step, models, self.length, **options)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        while self.schedule.steps < trainer.global_step:  # not if gradients accumulate
            self.schedule.step()
