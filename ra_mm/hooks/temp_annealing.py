"""Anneal the temperature of reverse attention (paper, Eq. 8 and Table 9)."""

import math
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from ra_mm.errors import UserError
from ra_mm.layers.temp_schedule import (
    ANNEALED,
    check_schedule,
    find_gates,
    first_temp,
    is_trained,
    temp_at,
)
from ra_mm.registry import HOOKS
from ra_mm.validation import BOOL, check_arg

START_TEMP = 'ra_mm_start_temp'  # key in the run's message hub, saved with it


@HOOKS.register_module()
class TempAnnealingHook(Hook):
    """Lower temp linearly from ``start`` to ``end``, iteration by iteration.

    'In this paper, we linearly reduce temp from 30 to 1 in the first 10 epochs
    of training.' (paper, 'RA block'). The first iteration has temp = start;
    from iteration ``length`` on temp = end.

    temp depends only on the progress of the training, so a resumed run
    continues as if it had never stopped, even with another batch size if
    ``length`` is in epochs. The hook sets the temp of all M-GRN gates of the model, wrapped
    or compiled, and of the averaged model of an EMAHook, and logs it beside
    the loss.

    Annealing delays G until F is trained, so it belongs to a gamma that starts
    at 0. When training starts from trained RA weights (any gamma other than 0:
    from ImageNet pre-training, or a detector that is fine-tuned), temp starts
    at the checkpoint's value; if that is ``end`` already, it stays there. The
    log says so.

    Args:
        start (float): temp of the first iteration. Defaults to 30.
        end (float): temp after the annealing. Defaults to 1.
        length (int): Length of the annealing. Defaults to 10.
        by_epoch (bool): Whether ``length`` counts epochs, also in an
            iteration-based training, or iterations, several of which make one
            step where gradients are accumulated. Defaults to True.

    Raises:
        ValueError: If not start >= end > 0, or length < 1.
        UserError: Before training, if the model has no reverse attention, or
            the annealing is longer than the training.
    """

    def __init__(
        self,
        start: float = 30.0,
        end: float = 1.0,
        length: int = 10,
        by_epoch: bool = True,
    ) -> None:
        check_arg(BOOL, by_epoch=by_epoch)
        check_schedule(start, end, length)
        self.start = start
        self.end = end
        self.length = length
        self.by_epoch = by_epoch
        self.gates: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        models = [runner.model] + [hook.ema_model for hook in averages]
        self.gates = find_gates(models)
        if not self.gates:
            raise UserError(
                'TempAnnealingHook: the model has no reverse attention. Remove the '
                'hook from custom_hooks, or use an RA backbone'
            )
        _warn_of_frozen_gates(runner)
        hub = runner.message_hub
        if runner.iter == 0:
            temp = first_temp(self.gates, self.start, self.end)
            hub.update_info(START_TEMP, temp)
            if is_trained(self.gates):
                runner.logger.info(f'RA starts from trained weights with temp = {temp}')
        self.start_temp = hub.get_info(START_TEMP, self.start)

        # In units of length: epochs or iterations.
        self.fraction_per_iter = 1 / _iters_per_epoch(runner) if self.by_epoch else 1
        iters = round(self.length / self.fraction_per_iter)
        if self.start_temp > self.end and iters > runner.max_iters:
            epochs = ' epochs' if self.by_epoch else ''
            raise UserError(
                f'TempAnnealingHook: length={self.length}{epochs} takes {iters} '
                f'iterations, but the training has {runner.max_iters}: temp would '
                f'not reach {self.end}. Train longer, or set a smaller length, for '
                'example with --cfg-options custom_hooks.0.length=N'
            )
        runner.logger.info(
            f'temp falls from {self.start_temp} to {self.end} in {iters} iterations'
            if self.start_temp > self.end
            else f'temp is {self.end} throughout'
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop):
            progress = runner.epoch + batch_idx * self.fraction_per_iter
        else:
            progress = runner.iter * self.fraction_per_iter
        temp = temp_at(progress / self.length, self.start_temp, self.end)
        ANNEALED.update(self.gates)  # which a loop of one's own may not do
        for gate in self.gates:
            gate.temp.fill_(temp)  # in place: no recompilation, no device sync
        runner.message_hub.update_scalar('train/temp', temp)

    def after_train(self, runner: Runner) -> None:
        if runner.iter < runner.max_iters and self.gates[0].temp > self.end:
            runner.logger.warning('the training was stopped within the annealing')


def _warn_of_frozen_gates(runner):
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    # The teacher of a semi-supervised model is frozen as a whole and learns nothing.
    parts = [
        m for m in model.children() if any(p.requires_grad for p in m.parameters())
    ]
    gates = find_gates(parts) or find_gates([model])
    groups = runner.optim_wrapper.param_groups
    if isinstance(groups, dict):  # of several optimizers
        groups = [group for of_one in groups.values() for group in of_one]
    fixed = {p for g in groups if not g.get('initial_lr', g['lr']) for p in g['params']}
    frozen = [g for g in gates if not g.gamma.requires_grad or g.gamma in fixed]
    if frozen:
        message = f'{len(frozen)} of {len(gates)} gates are frozen with their blocks'
        plain = sum(not gate.gamma.any() for gate in frozen)
        if plain:
            runner.logger.warning(
                f'{message}. In {plain} of them gamma = 0, so their blocks stay plain: '
                'let them learn (frozen_stages, lr_mult), or use weights trained with RA'
            )
        else:
            runner.logger.info(f'{message} and keep their trained gamma')


def _iters_per_epoch(runner: Runner) -> int:
    loader = runner.train_dataloader
    batches = loader.batch_sampler
    if isinstance(batches.sampler, InfiniteSampler):
        # Its length is that of the whole dataset, not of this process's share.
        images_per_iter = batches.batch_size * get_world_size()
        return math.ceil(len(loader.dataset) / images_per_iter)
    return len(loader)
