"""The machine and software on which something was measured or trained."""

import importlib
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import torch

REPO = Path(__file__).parents[2]


def environment() -> dict:
    """Describe this machine and this state of the code.

    Returns:
        ``torch``, ``cuda`` (the version torch was built for), ``driver`` and
        ``gpu`` (these three None without a GPU), ``cpu``, ``threads`` (torch's),
        ``python``, ``platform``, ``commit`` (40 digits) and ``dirty`` (whether
        tracked files differ from it; both None outside a git checkout), and
        ``date``.
    """
    has_gpu = torch.cuda.is_available()
    commit, dirty = git_state()
    driver = _output(
        'nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'
    )
    return dict(
        torch=torch.__version__,
        cuda=torch.version.cuda if has_gpu else None,
        driver=driver.splitlines()[0] if has_gpu and driver else None,
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        cpu=cpu_name(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        platform=platform.platform(),
        commit=commit,
        dirty=dirty,
        date=time.strftime('%Y-%m-%d %H:%M %z'),
    )


def git_state() -> tuple[str | None, bool | None]:
    """The commit of ra_mm's checkout, and whether tracked files were changed."""
    # Installed as a wheel, ra_mm may lie inside the repository of another project.
    if not (REPO / '.git').exists():
        return None, None
    commit = _output('git', 'rev-parse', 'HEAD')
    changes = _output('git', 'status', '--porcelain', '--untracked-files=no')
    return commit, None if changes is None else bool(changes)


def cpu_name() -> str:
    """The CPU's model name, or its architecture if the system hides the name."""
    info = Path('/proc/cpuinfo')
    name = info.is_file() and re.search(r'model name\s*: (.+)', info.read_text())
    return name[1].strip() if name else platform.processor() or platform.machine()


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of those packages that can be imported."""
    versions = dict(python=platform.python_version())
    for name in names:
        try:
            versions[name] = importlib.import_module(name).__version__
        except ImportError:
            continue
    return versions


def _output(*command):
    try:
        return subprocess.run(
            command, cwd=REPO, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
