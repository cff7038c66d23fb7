"""Hooks that delete a checkpoint only after its successor, and validate on resume."""

import bisect
import os.path as osp
from types import SimpleNamespace
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ra_mm.registry import HOOKS

# The key, in the message hub that checkpoints contain, of the iteration after
# which the last validation took place.
VALIDATED = 'ra_mm_validated'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """A CheckpointHook that deletes outdated checkpoints last.

    mmengine deletes the checkpoints that exceed ``max_keep_ckpts``, and the
    previous best one, before it saves their successors: a run that is killed
    in between has lost both. This hook saves first, and deletes only in its
    own folder: a run that resumes from another run's checkpoint leaves that
    run's files alone.
    """

    file_backend: Any
    _is_validated = False

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._backend = self.file_backend
        self._outdated: list[str] = []
        # mmengine asks whether there is a file or a folder to delete: None is a no.
        answers: dict = dict(isfile=self._outdated.append, isdir=lambda path: None)
        answers['join_path'] = self._backend.join_path
        self.file_backend = SimpleNamespace(**answers)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        self._is_validated = True
        super()._save_best_checkpoint(runner, metrics)
        self._is_validated = False
        self._delete_outdated()  # if no other checkpoint was saved

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._is_validated:  # with a new best checkpoint, which is saved by now
            runner.message_hub.update_info(VALIDATED, runner.iter)
            self._delete_outdated()
        super()._save_checkpoint_with_step(runner, step, meta)
        self._delete_outdated()

    def _delete_outdated(self) -> None:
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        current = [self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best]
        kept = [_resolve(path) for path in current if path]
        folder, _ = _resolve(self._backend.join_path(self.out_dir, 'any'))
        for path in self._outdated:
            place = _resolve(path)
            if place not in kept and place[0] == folder and self._backend.isfile(path):
                self._backend.remove(path)
        self._outdated.clear()


def _resolve(path: str) -> tuple[str, str]:
    """Return the resolved folder of a path, and the file, which may be a link."""
    return osp.realpath(osp.dirname(path)), osp.basename(path)


class ValidateResumedHook(Hook):
    """Validates a resumed checkpoint whose validation was due.

    If a run is killed between saving and validating, mmengine never validates
    that checkpoint: the best one may be missed, or the final result of the
    training. After a validation that finds a new best checkpoint, the last one
    is saved again, with a note that it is validated; then nothing is due.

    Without effect if checkpoints are saved within epochs, and in loops that
    are not mmengine's. If norms are not synchronised, the checkpoint holds the
    statistics of the first process, so the metrics may differ slightly.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            done, length = loop.iter, loop.max_iters
        elif isinstance(loop, EpochBasedTrainLoop) and all(
            hook.by_epoch for hook in runner.hooks if isinstance(hook, CheckpointHook)
        ):
            done, length = loop.epoch, loop.max_epochs
        else:
            return
        # As the loops decide, whose next step is 1 ahead
        phase = bisect.bisect(loop.dynamic_milestones, done + 1) - 1
        interval = loop.dynamic_intervals[phase]
        is_at_end = done % interval == 0 or done >= length
        is_due = done >= max(1, loop.val_begin) and is_at_end
        is_done = runner.message_hub.get_info(VALIDATED, None) == runner.iter
        if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
            is_done = False  # it does not remember that it stopped the training
        if runner.val_loop is not None and is_due and not is_done:
            runner.logger.info('Validating the resumed checkpoint.')
            runner.val_loop.run()
