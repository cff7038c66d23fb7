"""Check the data of a run after it is built, before the first iteration."""

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
        if not len(loader := runner.train_loop.dataloader):
            text = f'train_dataloader: {len(loader.dataset)} images make no batch of'
            raise UserError(f'{text} {loader.batch_size}; lower batch_size')
        datasets = {'train_dataloader.dataset': loader.dataset}
        if runner.val_loop is not None:
            datasets['val_dataloader.dataset'] = runner.val_loop.dataloader.dataset
        parts = load_parts(datasets)
        found = check_samples(parts)
        for warning in found.warnings:
            runner.logger.warning(warning)
        found.raise_errors()
        num = sum(len(part.samples) for part in parts)
        runner.logger.info(f'data check: {num} images, warnings: {len(found.warnings)}')
