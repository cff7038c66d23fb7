"""The files of results, and the machine and software that they come from.

Results are a dict. Ordinary ones have ``environment``, ``sweep`` and a list of
``measurements``, see :func:`.measure_case`; a GPU report has ``environment``,
``minutes`` and ``parts``, see :func:`.write_gpu_report`.
"""

import json
import platform
import shlex
import time
from pathlib import Path

import torch

from ra_mm.errors import UserError, translate_errors
from ra_mm.fileio import atomic_write
from reproduction import machine

PACKAGES = ('torch', 'torchvision', 'triton', 'numpy')
TOOLBOXES = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')


def describe_environment(
    prog: str, argv: list[str], device: str, commit: str | None = None
) -> dict:
    """Describe the machine, the software and the command behind the figures.

    Args:
        prog (str): The tool's name.
        argv (list[str]): Its command line.
        device (str): 'cpu' or 'cuda'.
        commit (str, optional): The commit, where git cannot tell it.
    """
    cuda = device == 'cuda'
    return dict(
        command=shlex.join(['python', prog, *argv]),
        commit=commit or machine.describe_commit(),
        date=time.strftime('%Y-%m-%d %H:%M %z'),
        platform=platform.platform(),
        cpu=machine.cpu_name(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if cuda else None,
        driver=machine.gpu_driver() if cuda else None,
        cuda=torch.version.cuda if cuda else None,
        cudnn=torch.backends.cudnn.version() if cuda else None,
        **machine.package_versions(PACKAGES + TOOLBOXES),
    )


def read_results(path: Path) -> dict:
    """Read the results of an earlier run.

    Raises:
        UserError: If the file has no results.
    """
    with translate_errors(f'{path} cannot be read'):
        data = json.loads(path.read_text(encoding='utf-8'))
    if not {'measurements', 'parts'} & set(data):
        expected = 'expected a file written by tools/benchmark.py'
        raise UserError(f'{path} has no results: {expected}')
    return data


def write_results(data: dict, path: Path) -> None:
    with atomic_write(path) as f:
        f.write(json.dumps(data, indent=1) + '\n')
