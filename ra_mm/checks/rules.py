"""Checks that run before anything is built, and report every problem at once."""

import os

from mmengine.config import Config

from ra_mm.errors import UserError
from ra_mm.fileio import check_writable

from .arguments import check_arguments
from .channels import check_agreements
from .checkpoints import check_checkpoints
from .devices import check_devices
from .files import check_datasets
from .values import check_val_begin, check_values

__all__ = ['check']


def check(cfg: Config, mode: str, resume: str | None = None) -> list[str]:
    """Check a config, its data and checkpoints, and the devices of this machine.

    Only the first process of each machine checks. Missing weights are
    downloaded to MMEngine's cache if everything else is in order.

    Args:
        cfg (Config): The complete config, with command line options merged.
        mode (str): 'train' (which includes validation), 'test', or 'data' for the
            data of 'train' alone, without devices, checkpoints and schedules.
        resume (str, optional): The value of ``--resume``: the checkpoint that became
            ``load_from``, or 'auto' if that should have been found in the work
            directory.

    Returns:
        list[str]: Warnings, for the caller to log.

    Raises:
        UserError: If there are problems. The message lists all of them, each
            with what to do.
    """
    warnings: list[str] = []
    if int(os.environ.get('LOCAL_RANK', 0)) != 0:
        return warnings
    is_run = mode != 'data'
    problems = list(check_values(cfg, mode))
    if not problems:  # the other checks rely on the values
        if mode == 'train':
            problems += check_val_begin(cfg)
        if is_run:
            problems += check_arguments(cfg, mode)
            problems += check_devices(cfg, mode, warnings)
            problems += check_checkpoints(cfg, mode, resume, remote=False)
        problems += check_datasets(cfg, mode, warnings)
        problems += check_agreements(cfg, mode, warnings)
    if is_run and not problems:  # nothing is downloaded for a run that cannot start
        problems += check_checkpoints(cfg, mode, resume, remote=True)
    problems = list(dict.fromkeys(problems))
    if len(problems) > 1:
        problems.insert(0, f'{len(problems)} things are missing or wrong:')
    if problems:
        raise UserError('\n- '.join(problems))
    if is_run:
        check_writable('--work-dir', cfg.work_dir)
    return warnings
