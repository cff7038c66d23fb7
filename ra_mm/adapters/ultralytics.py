"""Reverse attention in YOLO, trained by ultralytics."""

from typing import Any, ClassVar

from torch import nn
from ultralytics.models.yolo import detect

from ra_mm.conversion import convert

from . import schedule_at

BLOCKS = 'Bottleneck', 'RepBottleneck', 'CIB', 'ResNetBlock'


class AttentionMixin:
    """Makes a trainer convert its model and anneal temp, of the moving average as well.

    ``YOLO.train`` builds the model anew, so a model that was converted before is lost.
    For another task or other values, define a class in a module that can be imported,
    since a training on several GPUs imports it::

        class Trainer(AttentionMixin, SegmentationTrainer):
            temp_epochs = 5

    Attributes:
        temp_epochs (float): Epochs that the annealing takes.
        convert_options (dict): Arguments of :func:`ra_mm.convert`. By default, residual
            blocks of convolutions get reverse attention.
    """

    temp_epochs = 10.0
    convert_options: ClassVar[dict] = {}
    add_callback: Any  # of the trainer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback('on_train_start', _start)
        self.add_callback('on_train_batch_end', _step)

    def get_model(
        self, cfg: Any = None, weights: Any = None, verbose: bool = True
    ) -> nn.Module:
        trainer: Any = super()
        model = trainer.get_model(cfg, weights, verbose)
        names = {type(m).__name__ for m in model.modules()}
        blocks = [name for name in BLOCKS if name in names] or BLOCKS
        convert(model, **{'blocks': blocks, **self.convert_options})
        if weights:
            model.load(weights)  # again, with the attentions
        return model


class DetectionTrainer(AttentionMixin, detect.DetectionTrainer):
    """``YOLO('yolo11n.yaml').train(trainer=DetectionTrainer, data=...)``."""


def _start(trainer):
    batches = len(trainer.train_loader)
    length = max(1, round(trainer.temp_epochs * batches))
    done, total = (n * batches for n in (trainer.start_epoch, trainer.epochs))
    models = [trainer.model, trainer.ema.ema]
    trainer.temp_schedule = schedule_at(done, models, length, total=total)


def _step(trainer):
    trainer.temp_schedule.step()
