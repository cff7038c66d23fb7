"""Compile the backbone of a training where that makes it faster."""

from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ra_mm.errors import describe
from ra_mm.ops.compilation import compile_if_faster, sizes_of
from ra_mm.registry import HOOKS

BATCHES = 8  # after which it is decided whether sizes vary, and whether to compile


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Measure whether a compiled backbone trains faster, and compile it if so.

    ``tools/train.py`` adds this hook; ``--no-compile`` leaves it out. It serves any
    ``backbone``, with and without RA. After 8 batches the backbone is timed forward
    and backward, eager and through :func:`torch.compile`, and the training
    continues with the faster one; the log has the times. If the images of the
    batches differed in size, one graph serves all sizes. Weights, names,
    checkpoints and evaluation stay as they are. See
    :func:`ra_mm.ops.compile_if_faster`.

    Nothing is measured in deterministic mode, for models that are compiled
    already, under wrappers other than DDP, and for batch norms that synchronize.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.backbone: nn.Module | None = None
        self.call: tuple[nn.Module, tuple, dict] | None = None

    def before_train(self, runner: Runner) -> None:
        self.backbone = find_backbone(runner)
        self.sizes: list[list] = []
        if self.backbone is not None:
            self.handle = self.backbone.register_forward_pre_hook(
                self._record, with_kwargs=True
            )

    def _record(self, backbone: nn.Module, args: tuple, kwargs: dict) -> None:
        if backbone.training and torch.is_grad_enabled():
            self.call = backbone, args, kwargs
            self.sizes.append(sizes_of(args, kwargs))

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self.call is None or len(self.sizes) < BATCHES:
            return
        self.handle.remove()
        call, self.call = self.call, None
        wrapper: Any = runner.optim_wrapper
        try:
            choice = compile_if_faster(
                *call,
                steps=runner.max_iters - runner.iter,
                dynamic=any(sizes != self.sizes[0] for sizes in self.sizes),
                cuda_graphs=get_world_size() == 1 and wrapper._accumulative_counts == 1,
                context=partial(wrapper.optim_context, runner.model),
                agree=lambda answer: all(all_gather_object(answer)),
            )
            runner.logger.info(str(choice))
        except Exception as e:  # the training itself may still run
            call[0]._compiled_call_impl = None
            runner.logger.warning(f'The backbone cannot be measured: {describe(e)}')

    def after_train(self, runner: Runner) -> None:
        if self.backbone is not None:
            self.handle.remove()
            self.backbone._compiled_call_impl = None


def find_backbone(runner: Runner) -> nn.Module | None:
    """Return the first backbone that learns, or None if none may be compiled."""
    model = runner.model
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if (
        is_model_wrapper(model)
        or torch.are_deterministic_algorithms_enabled()
        or any(getattr(m, '_compiled_call_impl', None) for m in model.modules())
        or runner.cfg.get('compile')
    ):
        return None
    for name, module in model.named_modules():
        if name.split('.')[-1] == 'backbone' and any(
            p.requires_grad for p in module.parameters()
        ):
            syncs = any(isinstance(m, nn.SyncBatchNorm) for m in module.modules())
            return None if syncs and get_world_size() > 1 else module
    return None
