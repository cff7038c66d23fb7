"""Temperature annealing of reverse attention (paper, Eq. 8 and Table 9)."""

import math

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop

from ra_mm.layers import ReverseAttention
from ra_mm.registry import HOOKS
from ra_mm.validation import BOOL, check_arg, integer, number

START = 'ra_mm_start_temp'  # its key among the run's saved information


@HOOKS.register_module()
class TempAnnealingHook(Hook):
    """Lower temp linearly from ``start`` to ``end``, iteration by iteration.

    'In this paper, we linearly reduce temp from 30 to 1 in the first 10 epochs
    of training.' (paper, 'RA block'). The first iteration has temp = start;
    from iteration ``length`` on temp = end.

    temp depends only on how far the training is, so a resumed run continues
    as if it had never stopped, and where epochs count, with batches of another
    size too. It reaches the RA layers of the model, wrapped or compiled, and
    of the averaged model of an EMAHook, and stands in the log beside the loss.

    Annealing delays G until F is trained, so it belongs to a gamma that starts
    at 0. A run that starts from RA weights (any gamma not 0: from ImageNet
    pre-training, or fine-tuning a detector) has that behind it: temp begins
    with theirs, and so is ``end`` throughout if they were annealed; the log
    says so.

    Args:
        start (float): temp of the first iteration. Defaults to 30.
        end (float): temp after the annealing. Defaults to 1.
        length (int): How long the annealing takes. Defaults to 10.
        by_epoch (bool): Whether ``length`` counts epochs, of an iteration-
            based training too, or iterations, several of which make a step
            where gradients are accumulated. Defaults to True.

    Raises:
        ValueError: If not start >= end > 0 or length < 1; before training, if
            the model has no RA layer or the annealing does not fit in.
    """

    def __init__(
        self,
        start: float = 30.0,
        end: float = 1.0,
        length: int = 10,
        by_epoch: bool = True,
    ) -> None:
        check_arg(BOOL, by_epoch=by_epoch)
        check_arg(number(), start=start, end=end)
        if not start >= end > 0:
            raise ValueError(
                f'start={start}, end={end}: temp falls from start to end, so '
                'start >= end > 0 is expected'
            )
        if not integer(1).test(length):
            raise ValueError(
                f'length={length!r}: expected a number of '
                f'{"epochs" if by_epoch else "iterations"}, 1 or '
                'more; for no annealing leave the hook away'
            )
        self.start = start
        self.end = end
        self.length = length
        self.by_epoch = by_epoch
        self.layers = []

    def before_train(self, runner) -> None:
        averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        models = [runner.model] + [hook.ema_model for hook in averages]
        self.layers = [
            layer
            for model in models
            for layer in model.modules()
            if isinstance(layer, ReverseAttention)
        ]
        if not self.layers:
            raise ValueError(
                'TempAnnealingHook: the model has no ReverseAttention layer. '
                'Take the hook out of custom_hooks, or use an RA backbone'
            )

        hub = runner.message_hub
        if runner.iter == 0:
            trained = any(bool(m.gamma.any()) for m in self.layers)
            temp = max(m.temp.item() for m in self.layers)
            hub.update_info(START, max(temp, self.end) if trained else self.start)
            if trained:
                runner.logger.info(
                    f'RA starts from trained weights, whose temp is {temp}'
                )
        self.first = hub.get_info(START, self.start)

        # Of what self.length counts, an iteration is a part.
        self.part = 1 / _iters_per_epoch(runner) if self.by_epoch else 1
        iters = round(self.length / self.part)
        if self.first > self.end and iters > runner.max_iters:
            raise ValueError(
                f'TempAnnealingHook: length={self.length}'
                + (f' epochs are {iters}' if self.by_epoch else '')
                + ' iterations, but the whole training has '
                f'{runner.max_iters}: temp would not reach {self.end}. Train '
                'longer, or set a smaller length where the hook stands among '
                'the custom_hooks: --cfg-options custom_hooks.0.length=N'
            )
        runner.logger.info(
            f'temp falls from {self.first} to {self.end} in {iters} iterations'
            if self.first > self.end
            else f'temp is {self.end} throughout'
        )

    def temp_at(self, done: float) -> float:
        """temp when so much of what ``length`` counts is done, 0 at first."""
        rest = max(0, 1 - done / self.length)
        return self.end + (self.first - self.end) * rest

    def before_train_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop):
            done = runner.epoch + batch_idx * self.part
        else:
            done = runner.iter * self.part
        temp = self.temp_at(done)
        for layer in self.layers:
            layer.temp.fill_(temp)  # in place: no recompilation, no sync
        runner.message_hub.update_scalar('train/temp', temp)


def _iters_per_epoch(runner) -> int:
    loader = runner.train_dataloader
    batches = loader.batch_sampler
    if isinstance(batches.sampler, InfiniteSampler):
        # Its length is the whole dataset's, not this process's share.
        return math.ceil(len(loader.dataset) / (batches.batch_size * get_world_size()))
    return len(loader)
