"""Checkpoints: written whole, found again, read without running code."""

import os
import os.path as osp
import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.optim.scheduler import OneCycleParamScheduler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.checkpoint import CheckpointLoader, get_torch_safe_globals

# What a run saves beside tensors: mmengine's list lacks scores of other
# precisions, the metainfo of datasets, and the state of OneCycleLR.
SAFE = [
    *get_torch_safe_globals(),
    ConfigDict,
    OneCycleParamScheduler,
    *{
        type(np.dtype(code))
        for code in np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?'
    },
]

VALIDATED = 'ra_mm_validated'  # its key among the run's saved information


def read_checkpoint(path: str) -> Mapping:
    """Read a checkpoint onto the CPU.

    Args:
        path (str): A file, or whatever else mmengine loads from:
            ``torchvision://resnet50``, ``https://...``.

    Returns:
        Mapping: What was saved. Only tensors and mmengine's plain records are
        unpickled (``weights_only``); code is never run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as a checkpoint.
    """
    remote = '://' in path
    if not remote:
        path = osp.expanduser(path)
        if not osp.isfile(path):
            raise FileNotFoundError(
                f'{path}: '
                + (
                    'a folder, name a file in it'
                    if osp.isdir(path)
                    else 'there is no such checkpoint'
                )
            )
    # For good, since mmengine reads it again, and has a shorter list.
    torch.serialization.add_safe_globals(SAFE)
    try:
        if remote:
            with _weights_only():
                checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        else:
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:  # zip, pickle, EOF and decoding errors of all kinds
        if remote and not isinstance(e, pickle.UnpicklingError):
            raise  # of the way there, not of what is found there
        text = str(e)
        if isinstance(e, EOFError) or 'EOF' in text or _is_half_a_zip(path):
            reason = (
                'is truncated: its download or the run that saved it '
                'was interrupted; fetch or save it again'
            )
        elif 'GLOBAL ' in text:
            name = re.search(r'GLOBAL (\S+)', text)[1]
            reason = (
                f'holds more than weights, code maybe ({name}), which '
                'is not run; save its state_dict() instead'
            )
        else:
            reason = 'is not a PyTorch checkpoint'
        raise ValueError(f'{path} {reason}') from e
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f'{path} holds a {type(checkpoint).__name__}, not the dict of a checkpoint'
        )
    return checkpoint


def _is_half_a_zip(path):
    if not osp.isfile(path):
        return False
    with open(path, 'rb') as f:
        return f.read(2) == b'PK' and not zipfile.is_zipfile(path)


@contextmanager
def _weights_only():
    """Stop mmengine from running the code of a checkpoint in the end."""
    variable = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(variable)
    os.environ[variable] = '1'
    try:
        yield
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


def read_state_dict(path: str) -> Mapping:
    """The weights of a checkpoint, by name, see :func:`read_checkpoint`."""
    return get_weights(read_checkpoint(path), path)


def get_weights(checkpoint: Mapping, path: str) -> Mapping:
    """The weights in a checkpoint.

    Args:
        checkpoint (Mapping): With weights by name, or these as
            ``state_dict``.
        path (str): Where it is from, for the message.

    Returns:
        Mapping: The weights, by name.

    Raises:
        ValueError: If there are none, or one of them is not finite.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor)
            for k, v in weights.items()
        )
    ):
        raise ValueError(
            f'{path} holds no weights: expected tensors by name, '
            "or such under 'state_dict'"
        )
    for key, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(
                f'{path}: {key} is not finite (NaN or infinite), '
                'the run that saved it had diverged: give a '
                'checkpoint from before that'
            )
    return weights


def save_whole(runner: Runner) -> None:
    """Let no checkpoint be lost, at whatever moment the run is killed.

    A checkpoint appears under its name once it is complete; and of those that
    are not to be kept, the best of before among them, each is deleted after
    its successor is there, where mmengine deletes it first. The first one is
    read back at once, since a run should not learn at its resumption that
    what it saved cannot be read.

    Args:
        runner (Runner): Before its training.
    """
    save, outdated, proven = runner.save_checkpoint, _Outdated(), set()

    def save_checkpoint(out_dir, filename, *args, **kwargs):
        path = Path(out_dir, filename)
        if '://' in out_dir:  # not a local folder: the backend's work
            return save(out_dir, filename, *args, **kwargs)
        part = path.with_name(f'{filename}.part')
        best = filename.startswith('best_')
        if best:  # mmengine then saves the last one again, with this
            runner.message_hub.update_info(VALIDATED, runner.iter)
        try:
            save(out_dir, part.name, *args, **kwargs)
            if is_main_process():
                if best not in proven:  # the best have no optimizer
                    _prove(part)
                    proven.add(best)
                os.replace(part, path)
                outdated.discard(_place(path))  # of its successor's name
                if best:
                    outdated.delete()
        finally:
            if is_main_process():
                part.unlink(missing_ok=True)

    runner.save_checkpoint = save_checkpoint
    runner.register_hook(_DeleteOutdated(outdated))


def _prove(part):
    try:
        read_checkpoint(str(part))
    except ValueError as e:
        raise ValueError(
            'what this run saves could not be resumed from, a '
            'hook, a schedule or a dataset puts objects of its '
            f'own into the checkpoint: {e}'
        ) from e


def _place(path):
    """The same for all names of a folder; a link is not what it points to."""
    return osp.join(osp.realpath(osp.dirname(path)), osp.basename(path))


class _Outdated(set):
    """Paths of what CheckpointHooks would delete before they save."""

    def delete(self):
        while self:
            Path(self.pop()).unlink(missing_ok=True)


class _DeleteOutdated(Hook):
    """Deletes after CheckpointHooks have saved and noted what they saved."""

    priority = 'LOWEST'  # they act before

    def __init__(self, outdated):
        self.outdated = outdated

    def before_train(self, runner):
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and '://' not in hook.out_dir:
                hook.file_backend = _Keeping(hook, self.outdated)

    def after_train_iter(self, *_, **__):
        self.outdated.delete()

    after_train_epoch = after_val_epoch = after_train_iter


class _Keeping:
    """A file backend that notes what it is to remove.

    In the hook's own folder alone: that a run was resumed from another's does
    not make the other's checkpoints its own.
    """

    def __init__(self, hook, outdated):
        self.backend, self.folder = hook.file_backend, hook.out_dir
        self.outdated = outdated

    def isfile(self, path):
        return osp.realpath(osp.dirname(path)) == osp.realpath(
            self.folder
        ) and self.backend.isfile(path)

    def remove(self, path):
        self.outdated.add(_place(path))

    def __getattr__(self, name):
        return getattr(self.backend, name)


class ValidateResumedHook(Hook):
    """Validates a resumed checkpoint, if its validation was due.

    A loop validates after it has saved: of a run that was killed in between,
    mmengine would never learn how good that epoch was, and perhaps miss the
    best one, or the result of the whole training. The checkpoint of the best
    epoch so far is saved again after its validation, and is left as it is.
    Processes whose norms are not synchronised save the first one's: there the
    metrics may differ from those before.

    Not where checkpoints are saved within epochs, nor in other loops than
    mmengine's.
    """

    priority = 'LOWEST'  # when all is prepared; to be registered last

    def before_train(self, runner):
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            done, length = loop.iter, loop.max_iters
        elif isinstance(loop, EpochBasedTrainLoop) and all(
            hook.by_epoch for hook in runner.hooks if isinstance(hook, CheckpointHook)
        ):
            done, length = loop.epoch, loop.max_epochs
        else:
            return
        loop._decide_current_val_interval()
        due = done >= max(1, loop.val_begin) and (
            done % loop.val_interval == 0 or done >= length
        )
        validated = runner.message_hub.get_info(VALIDATED, None) == runner.iter
        if any(isinstance(hook, EarlyStoppingHook) for hook in runner.hooks):
            validated = False  # it would not know that it had stopped
        if runner.val_loop is not None and due and not validated:
            runner.logger.info('The validation of the resumed checkpoint')
            runner.val_loop.run()


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that a run in this folder saved last, None without one.

    mmengine notes its path in ``last_checkpoint``, after it has written it.
    If the run was killed in between, or the note is missing or names no file
    since the folder was moved, the file names ``epoch_N.pth`` and
    ``iter_N.pth`` decide: the highest N, among whole files that are newer than
    the note and have a higher N than what it names.
    """
    note, noted, since = Path(work_dir, 'last_checkpoint'), None, 0
    if note.is_file():
        text = note.read_text().strip()
        if osp.isfile(text):
            noted, since = text, note.stat().st_mtime_ns
    later = {
        _number(path): str(path)
        for path in Path(work_dir).glob('*.pth')
        if path.stat().st_mtime_ns > since and zipfile.is_zipfile(path)
    }
    last = max(later, default=-1)
    return later[last] if last > _number(noted or '') else noted


def _number(path):
    """N of ``epoch_N.pth`` or ``iter_N.pth``, else -1."""
    found = re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', osp.basename(path))
    return int(found[1]) if found else -1
