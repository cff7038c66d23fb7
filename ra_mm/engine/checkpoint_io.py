"""Read checkpoints without running code, and find the latest one."""

import os
import os.path as osp
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.runner.checkpoint import CheckpointLoader

from ra_mm.engine import pickle_guard
from ra_mm.errors import UserError, translate_errors
from ra_mm.validation import shorten

# Other buffers may be infinite: masks, or the ranges of observers.
FINITE = {'weight', 'bias', 'gamma', 'running_mean', 'running_var'}
# Where libraries put the weights in a checkpoint, the preferred ones first.
PLACES = (
    *('state_dict', 'model', 'model_state', 'model_state_dict'),
    *('teacher', 'student', 'ema', 'state_dict_ema'),
)


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Mapping:
    """Read a checkpoint without running code.

    Args:
        path: A file, or any other address that mmengine loads from:
            ``torchvision://resnet50``, ``https://...``. A file may also be a
            ``.safetensors``.
        map_location: The device for its tensors.

    Returns:
        What was saved. Only tensors and mmengine's plain records are unpickled
        (``weights_only``).

    Raises:
        UserError: If the file is missing or cannot be read as a checkpoint.
    """
    if '://' in path:
        pickle_guard.allow_records()
        advice = 'give a file instead, or init_cfg=None to train from scratch'
        # MMEngine would fall back to full unpickling.
        forced = mock.patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD='1')
        with translate_errors(f'{path} cannot be loaded; {advice}'), forced:
            checkpoint = CheckpointLoader.load_checkpoint(path, map_location)
    else:
        path = osp.expanduser(path)
        if not osp.isfile(path):
            reason = 'is a folder, not a file' if osp.isdir(path) else 'does not exist'
            raise UserError(f'the checkpoint {path} {reason}')
        try:
            if path.endswith('.safetensors'):
                from safetensors.torch import load_file  # optional

                checkpoint = load_file(path, str(map_location))
            else:
                checkpoint = pickle_guard.load_weights_only(path, map_location)
        except ImportError as e:
            raise UserError(f'{path} needs safetensors: pip install safetensors') from e
        except Exception as e:  # errors of zip, pickle and decoding of all kinds
            raise UserError(f'{path} {_explain(path, e)}') from e
    if not isinstance(checkpoint, Mapping):
        kind = type(checkpoint).__name__
        raise UserError(f'{path} holds a {kind}, not the dict of a checkpoint')
    return checkpoint


def _explain(path, error):
    """Say why a file cannot be read, by what it is."""
    if path.endswith('.safetensors'):
        return f'is not a complete safetensors file: {error}'
    is_zip = zipfile.is_zipfile(path)
    with open(path, 'rb') as f:
        head = f.read(40)
    if re.fullmatch(rb'[ -~\s]{8,}', head):  # a web page, or a pointer of Git LFS
        return f'is a text, {head.split()[:2]}, not a checkpoint: get the weights'
    if (head.startswith(b'PK') and not is_zip) or isinstance(error, EOFError):
        return 'is truncated: download or save it again'
    if is_zip and isinstance(error, pickle.UnpicklingError):
        found = pickle_guard.forbidden_globals(path, error)
        names = f'{shorten(found)} ' if found else ''
        text = f'holds more than tensors and plain records {names}and is not unpickled'
        return f'{text} since that may run code; save its state_dict() instead'
    return 'is not a PyTorch checkpoint of tensors and plain records'


def read_state_dict(path: str) -> Mapping:
    """Read the weights of a checkpoint, see :func:`read_checkpoint`."""
    return get_weights(read_checkpoint(path), path)


def get_weights(checkpoint: Mapping, path: str) -> Mapping:
    """Return the weights in a checkpoint and check that they are finite.

    Args:
        checkpoint: Weights by name, or a dict with these in one of the usual places.
        path: Its file, for the message.

    Raises:
        UserError: If it has no weights, or one of them is not finite.
    """
    weights = unnest(checkpoint)
    are_tensors = all(isinstance(value, torch.Tensor) for value in weights.values())
    if not weights or not are_tensors or not all(isinstance(k, str) for k in weights):
        text = f'{path} holds no weights: expected tensors by name, at the top level'
        raise UserError(f'{text} or under one of {", ".join(PLACES)}')
    for key, value in weights.items():
        with translate_errors(f'{path}: {key} is no dense tensor of numbers'):
            is_finite = value.isfinite()
            if key.rpartition('.')[2] not in FINITE:
                is_finite |= value.isinf()
            is_finite = is_finite.all().item()
        if not is_finite:
            text = f'{path}: {key} is not finite (NaN or infinite)'
            raise UserError(f'{text}, so its run had diverged: use an earlier one')
    return weights


def unnest(checkpoint: Mapping) -> Mapping:
    """Return what a checkpoint has in the usual places of weights, or itself.

    Of a teacher and a student the prefix has to choose.
    """
    pair = {k: checkpoint[k] for k in ('teacher', 'student') if k in checkpoint}
    if len(pair) == 2 and all(isinstance(value, Mapping) for value in pair.values()):
        return {f'{k}.{name}': t for k, own in pair.items() for name, t in own.items()}
    for name in PLACES:
        if isinstance(checkpoint.get(name), Mapping):
            return unnest(checkpoint[name])
    return checkpoint


def latest_checkpoint(work_dir: str) -> str | None:
    """Return the checkpoint that a run in this folder saved last, if any.

    mmengine writes the path of a checkpoint to the file ``last_checkpoint``
    after it has saved the checkpoint. If the run was killed in between, or that
    file is missing or out of date because the folder was moved, the names
    ``epoch_N.pth`` and ``iter_N.pth`` decide: the highest N of the complete
    files that are newer than ``last_checkpoint`` and have a higher N than the
    path in it.
    """
    note, noted, since = Path(work_dir, 'last_checkpoint'), None, 0
    if note.is_file():
        text = note.read_text().strip()
        if osp.isfile(text):
            noted, since = text, note.stat().st_mtime_ns
    newer = {
        _get_step(path): str(path)
        for path in Path(work_dir).glob('*.pth')
        if path.stat().st_mtime_ns > since and zipfile.is_zipfile(path)
    }
    last = max(newer, default=-1)
    return newer[last] if last > _get_step(noted or '') else noted


def _get_step(path):
    """Return N of ``epoch_N.pth`` or ``iter_N.pth``, else -1."""
    found = re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', osp.basename(path))
    return int(found[1]) if found else -1
