"""The audit within a run: its datasets are built by then, and nothing is trained."""

import time

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ra_mm.checks.run import audit


class AuditHook(Hook):
    """Audit the training and validation data just before training.

    Only the first process does. It is no part of a config: ``tools/train.py``
    registers it.
    """

    priority = 'LOWEST'

    def before_run(self, runner) -> None:
        """Log warnings, and raise a :class:`.UserError` if something is wrong."""
        if not is_main_process():
            return
        start = time.monotonic()
        datasets = {'train_dataloader.dataset': runner.train_loop.dataloader.dataset}
        if runner.val_loop is not None:
            datasets['val_dataloader.dataset'] = runner.val_loop.dataloader.dataset
        found = audit(datasets)
        for warning in found.warnings:
            runner.logger.warning(warning)
        found.raise_errors()
        images = sum(len(data.samples) for data in found.parts)
        runner.logger.info(
            f'data check: {images} images as the network gets them, '
            f'{len(found.warnings)} warning(s), {time.monotonic() - start:.1f} s'
        )
