"""Hooks that delete a checkpoint only after its successor, and validate on resume."""

import bisect
import os.path as osp
from collections.abc import Mapping

from mmengine.dist import is_main_process
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

    _previous_best: Mapping = {}

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if self.save_best:  # mmengine deletes what these attributes name
            self._previous_best = self._get_best()
            self._set_best(dict.fromkeys(self._previous_best))
        super()._save_best_checkpoint(runner, metrics)
        self._delete_previous_best()  # if no other checkpoint was saved

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._previous_best:  # this is after a validation with a new best
            runner.message_hub.update_info(VALIDATED, runner.iter)
            self._delete_previous_best()
        outdated = None
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)  # mmengine then deletes nothing
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        super()._save_checkpoint_with_step(runner, step, meta)
        if outdated is not None:
            name = self.filename_tmpl.format(outdated)
            path = self.file_backend.join_path(self.out_dir, name)
            self._delete(path, self.last_ckpt)

    def _get_best(self) -> dict:
        """Return the path of the best checkpoint by metric."""
        is_one = len(self.key_indicators) == 1
        return {'': self.best_ckpt_path} if is_one else dict(self.best_ckpt_path_dict)

    def _set_best(self, paths: dict) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict.update(paths)

    def _delete_previous_best(self) -> None:
        """Delete each previous best checkpoint that has a successor by now."""
        if not self._previous_best:
            return
        previous, self._previous_best = self._previous_best, {}
        current = self._get_best()
        self._set_best({key: current[key] or previous[key] for key in current})
        for key, path in previous.items():
            if path and current[key]:
                self._delete(path, current[key])

    def _delete(self, path: str, successor: str) -> None:
        path, successor = _resolve(path), _resolve(successor)
        is_ours = osp.dirname(path) == osp.dirname(successor)
        if not is_main_process() or not is_ours or path == successor:
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # as DeepSpeed saves them
            self.file_backend.rmtree(path)


def _resolve(path: str) -> str:
    """Resolve the folder of a path, but not the file, which may be a link."""
    if '://' in path:
        return path
    return osp.join(osp.realpath(osp.dirname(path)), osp.basename(path))


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
