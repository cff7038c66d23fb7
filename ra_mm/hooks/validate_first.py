"""Validate a model before its first training step."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ra_mm.registry import HOOKS


@HOOKS.register_module()
class ValidateFirstHook(Hook):
    """Validate before the first iteration, unless the training is resumed.

    The log then shows what pre-trained weights are worth in the network as it starts,
    at step 0.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        if runner.iter == 0 and runner.val_loop is not None:
            runner.val_loop.run()
            runner.model.train()
