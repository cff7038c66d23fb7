"""Temperature annealing of reverse attention (paper, Eq. 8 and Table 9)."""
import math
from typing import Optional

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook

from ra_mm.layers import ReverseAttention
from ra_mm.registry import HOOKS
from ra_mm.utils.expect import SWITCH, expect, number, whole

TRAINED = 'ra_mm_trained_gamma'  # its key among the run's saved information


@HOOKS.register_module()
class TempAnnealingHook(Hook):
    """Lower temp linearly from ``start`` to ``end``, iteration by iteration.

    'In this paper, we linearly reduce temp from 30 to 1 in the first 10 epochs
    of training.' (paper, 'RA block'). The first iteration has temp = start;
    from iteration ``length`` on temp = end.

    temp depends on the runner's iteration alone, so a resumed run continues
    as if it had never stopped. It reaches the RA layers of the model, wrapped
    or compiled, and of the averaged model of an EMAHook, and stands in the
    log beside the loss.

    Annealing delays G until F is trained, so it belongs to a gamma that starts
    at 0. A run that starts from RA weights (any gamma not 0: from ImageNet
    pre-training, or fine-tuning a detector) has that behind it: temp then
    is ``end`` throughout, and the log says so.

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

    def __init__(self,
                 start: float = 30.,
                 end: float = 1.,
                 length: int = 10,
                 by_epoch: bool = True) -> None:
        expect(SWITCH, by_epoch=by_epoch)
        expect(number(), start=start, end=end)
        if not start >= end > 0:
            raise ValueError(
                f'start={start}, end={end}: temp falls from start to end, so '
                'start >= end > 0 is expected')
        if not whole(1).test(length):
            raise ValueError(f'length={length!r}: expected a number of '
                             f'{"epochs" if by_epoch else "iterations"}, 1 or '
                             'more; for no annealing leave the hook away')
        self.start = start
        self.end = end
        self.length = length
        self.by_epoch = by_epoch
        self.layers = []

    def before_train(self, runner) -> None:
        averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        models = [runner.model] + [hook.ema_model for hook in averages]
        self.layers = [
            layer for model in models for layer in model.modules()
            if isinstance(layer, ReverseAttention)
        ]
        if not self.layers:
            raise ValueError(
                'TempAnnealingHook: the model has no ReverseAttention layer. '
                'Take the hook out of custom_hooks, or use an RA backbone')

        self.iters = self.length
        if self.by_epoch:
            self.iters *= _iters_per_epoch(runner)
        if self.iters > runner.max_iters:
            raise ValueError(
                f'TempAnnealingHook: length={self.length} '
                f'{"epochs" if self.by_epoch else "iterations"} are '
                f'{self.iters} iterations, but the whole training has '
                f'{runner.max_iters}: temp would not reach {self.end}. Train '
                'longer or set a smaller length')

        hub = runner.message_hub
        if runner.iter == 0:
            hub.update_info(
                TRAINED, any(bool(m.gamma.any()) for m in self.layers))
        self.trained = hub.get_info(TRAINED, False)
        runner.logger.info(
            f'RA starts from trained weights: temp is {self.end}'
            if self.trained else
            f'temp falls from {self.start} to {self.end} in {self.iters} '
            'iterations')

    def temp_at(self, iter: int) -> float:
        """temp of the given iteration, the first being 0."""
        rest = 0 if self.trained else max(0, 1 - iter / self.iters)
        return self.end + (self.start - self.end) * rest

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        temp = self.temp_at(runner.iter)
        for layer in self.layers:
            layer.temp.fill_(temp)  # in place: no recompilation, no sync
        runner.message_hub.update_scalar('train/temp', temp)


def _iters_per_epoch(runner) -> int:
    loader = runner.train_dataloader
    batches = loader.batch_sampler
    if isinstance(batches.sampler, InfiniteSampler):
        # Its length is the whole dataset's, not this process's share.
        return math.ceil(
            len(loader.dataset) / (batches.batch_size * get_world_size()))
    return len(loader)
