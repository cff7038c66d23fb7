"""Train on the fastest path of the RA tails, measured on the first batch."""

import copy

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ra_mm.errors import describe
from ra_mm.layers import ReverseAttention
from ra_mm.ops import PATHS, get_path, set_training_path
from ra_mm.ops.tuning import compare_paths, record_tails
from ra_mm.registry import HOOKS

TRAINING_PATH = 'ra_mm_training_path'  # key in the run's message hub, saved with it


@HOOKS.register_module()
class FastestPathHook(Hook):
    """Measure the paths of :mod:`ra_mm.ops` before the first step.

    ``tools/train.py`` adds this hook. A copy of the model runs the first batch
    forward, its tails are timed on every path (see :mod:`ra_mm.ops.tuning`),
    and the training takes the fastest. The log has the times; checkpoints have
    the path, and a resumed run takes it again. In distributed training, the first
    process decides for all. Validation keeps its own default.

    The measurement is skipped if a path is forced in any process
    (:func:`ra_mm.ops.set_path`, or RA_MM_TAIL in the environment), in
    deterministic mode, for compiled models, under wrappers other than DDP, and
    for models without RA.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.done = False

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self.done:
            return
        self.done = True
        model = _measurable(runner)
        if model is None:
            return
        hub = runner.message_hub
        path = hub.get_info(TRAINING_PATH) if runner.iter > 0 else None
        if path in PATHS:
            runner.logger.info(f'The RA tails resume on path {path!r}')
        else:
            path = self._measure(runner, model, data_batch)
            if path is not None:
                hub.update_info(TRAINING_PATH, path)
        set_training_path(path)

    def after_train(self, runner: Runner) -> None:
        set_training_path(None)

    def _measure(self, runner, model, data_batch):
        def forward(model):
            with runner.optim_wrapper.optim_context(model):
                data = model.data_preprocessor(copy.deepcopy(data_batch), True)
                model._run_forward(data, mode='loss')

        path = None
        try:
            # In every process: norms may synchronize.
            calls = record_tails(model, forward)
            if calls and is_main_process():
                runner.logger.info('Measuring which path of the RA tails is fastest')
                choice = compare_paths(calls, runner.max_iters - runner.iter)
                runner.logger.info(str(choice))
                path = choice.path
        except Exception as e:  # the training itself may still run
            runner.logger.warning(
                f'The paths of the RA tails cannot be measured: {describe(e)}'
            )
        found = [path]
        broadcast_object_list(found)
        return found[0]


def _measurable(runner: Runner) -> nn.Module | None:
    """Return the model, or None if the measurement is to be skipped."""
    model = runner.model
    if isinstance(model, DistributedDataParallel):
        model = model.module
    # In every process, since all have to agree on whether they measure.
    forced = any(path is not None for path in all_gather_object(get_path()))
    if (
        forced
        or is_model_wrapper(model)
        or torch.are_deterministic_algorithms_enabled()
        or runner.cfg.get('compile')
    ):
        return None
    modules = list(model.modules())
    if any(getattr(m, '_compiled_call_impl', None) is not None for m in modules):
        return None
    return model if any(isinstance(m, ReverseAttention) for m in modules) else None
