"""What the tools set for OpenMP before they import PyTorch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ra_mm.threads import count_cpus

ROOT = Path(__file__).parents[2]
SCRIPTS = [*(ROOT / 'tools').glob('*.py'), *(ROOT / 'examples').glob('*.py')]


def variables(**environment):
    code = 'import os, sys, ra_mm.threads; assert "torch" not in sys.modules; '
    code += 'print([os.environ.get(name) for name in '
    code += '("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")])'
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('OMP', 'GOMP'))}
    command = [sys.executable, '-c', code]
    out = subprocess.check_output(command, env=clean | environment, cwd=ROOT)
    return ast.literal_eval(out.decode())


def test_waiting():
    """Passive, unless the user says how to wait; threads as many as the user says."""
    assert variables(OMP_NUM_THREADS='7') == ['PASSIVE', '1000', '7']
    assert variables(OMP_WAIT_POLICY='ACTIVE')[0] == 'ACTIVE'
    assert variables(GOMP_SPINCOUNT='9')[:2] == [None, '9']


@pytest.mark.parametrize(
    'files, cpus',
    [
        ({}, None),
        ({'sys/fs/cgroup/cpu.max': 'max 100000'}, None),
        ({'sys/fs/cgroup/cpu.max': '50000 100000'}, 0.5),
        ({'sys/fs/cgroup/cpu.max': 'max 9', 'sys/fs/cgroup/a/cpu.max': '1 4'}, 0.25),
        (
            {
                'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '25000\n',
                'sys/fs/cgroup/cpu/cpu.cfs_period_us': '50000\n',
            },
            0.5,
        ),
        ({'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1'}, None),
    ],
)
def test_cpus_of_a_container(tmp_path, files, cpus):
    for name, text in {'proc/self/cgroup': '1:cpu:/x\n0::/a/b\n', **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert count_cpus(str(tmp_path)) == (cpus or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_every_script_begins_with_it(path):
    names = [
        getattr(node, 'module', None) or node.names[0].name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    others = [n for n in names if n.split('.')[0] not in sys.stdlib_module_names]
    assert others[0] in ('ra_mm.threads', 'benchmarks.command')  # which begins with it
