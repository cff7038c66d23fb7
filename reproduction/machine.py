"""The machine and software on which something was measured or trained."""

import importlib
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

REPO = Path(__file__).parents[1]


def describe_commit() -> str | None:
    """The commit of ra_mm's checkout, and whether tracked files were changed."""
    # Installed as a wheel, ra_mm may lie inside the repository of another project.
    if not (REPO / '.git').exists():
        return None
    flags = '--always', '--exclude=*', '--abbrev=10', '--dirty= (changed)'
    return _output('git', 'describe', *flags)


def cpu_name() -> str:
    """The CPU's model name, or its architecture if the system hides the name."""
    info = Path('/proc/cpuinfo')
    name = info.is_file() and re.search(r'model name\s*: (.+)', info.read_text())
    return name[1].strip() if name else platform.processor() or platform.machine()


def gpu_driver() -> str | None:
    """The version of the GPUs' driver, if nvidia-smi tells it."""
    query = '--query-gpu=driver_version', '--format=csv,noheader'
    version = _output('nvidia-smi', *query)
    return version.splitlines()[0] if version else None


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
    options: dict = dict(stderr=subprocess.DEVNULL, text=True, cwd=REPO)
    try:
        return subprocess.check_output(command, **options).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
