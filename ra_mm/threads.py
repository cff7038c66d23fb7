"""Threads that hardly spin while they wait, and no more of them than CPUs.

Import this module before PyTorch, whose OpenMP reads the environment once::

    import ra_mm.threads

Waiting threads that spin take the time of other processes, and of the threads that
they wait for: beside other work, a training then takes several times as long.
"""

import os
from contextlib import suppress
from pathlib import Path


def count_cpus(root: str = '/') -> float:
    """Count the CPUs that this process may use, by its affinity and its cgroup.

    Args:
        root (str): Where the file system begins. Defaults to '/'.

    Returns:
        float: At least a fraction of one, if a container is limited to that.
    """
    if hasattr(os, 'sched_getaffinity'):
        limits = [float(len(os.sched_getaffinity(0)))]
    else:
        limits = [float(os.cpu_count() or 1)]
    cgroups = Path(root, 'sys/fs/cgroup')
    with suppress(OSError):  # version 2, where parents have limits too
        lines = Path(root, 'proc/self/cgroup').read_text().splitlines()
        own = next((line[4:] for line in lines if line.startswith('0::/')), '')
        files = [folder / 'cpu.max' for folder in (Path(own), *Path(own).parents)]
        limits += [
            _ratio(*(cgroups / f).read_text().split())
            for f in files
            if (cgroups / f).is_file()
        ]
    with suppress(OSError):  # version 1
        names = 'cpu.cfs_quota_us', 'cpu.cfs_period_us'
        limits.append(_ratio(*((cgroups / 'cpu' / name).read_text() for name in names)))
    return min(limits)


def _ratio(quota, period):
    return float('inf') if quota.strip() in ('max', '-1') else int(quota) / int(period)


if not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys():
    os.environ |= {'OMP_WAIT_POLICY': 'PASSIVE', 'GOMP_SPINCOUNT': '1000'}
if count_cpus() < (os.cpu_count() or 1):
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, int(count_cpus()))))
