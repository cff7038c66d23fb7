"""Check the data of a run after it is built, before the first iteration."""

import time

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ra_mm.checks.rules import check_samples
from ra_mm.checks.sample import load_parts
from ra_mm.errors import UserError


class DataCheckHook(Hook):
    """Check samples of the training and validation data just before training.

    Only the first process does. It is no part of a config: ``tools/train.py``
    registers it.
    """

    priority = 'LOWEST'

    @master_only
    def before_run(self, runner: Runner) -> None:
        """Log warnings, and raise a :class:`.UserError` if something is wrong."""
        start = time.monotonic()
        loops: dict = {'train': runner.train_loop, 'val': runner.val_loop}
        if not len(loader := runner.train_loop.dataloader):
            text = f'train_dataloader: {len(loader.dataset)} images make no batch of'
            raise UserError(f'{text} {loader.batch_size}; lower batch_size')
        used = {k: v.dataloader.dataset for k, v in loops.items() if v is not None}
        parts = load_parts({f'{k}_dataloader.dataset': v for k, v in used.items()})
        found = check_samples(parts)
        for warning in found.warnings:
            runner.logger.warning(warning)
        found.raise_errors()
        num, seconds = sum(len(p.samples) for p in parts), time.monotonic() - start
        text = f'{num} images, {len(found.warnings)} warning(s), {seconds:.1f} s'
        runner.logger.info(f'data check: {text}')
