"""What requirements/mmcv.sh compiles mmcv for, with a Python that only pretends to."""

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# There is no wheel, and pip notes what mmcv's setup.py would decide by.
PYTHON = """#!/bin/sh
case "$*" in
  *is_available*) exit "$NO_GPU" ;;
  *mmcv._ext*) if [ -e "$0.built" ]; then echo works; else echo none; fi ;;
  *torch.version.cuda*) echo cu128 2.10.0 ;;
  *--only-binary*) exit 1 ;;
  *) echo "${FORCE_CUDA:-0} ${CUDA_VISIBLE_DEVICES-all}" >"$0.built" ;;
esac
"""


@pytest.mark.parametrize(
    'gpu, nvcc, force, cuda',
    [
        (True, True, '0', True),
        (True, False, '0', False),
        (False, True, '0', False),
        (False, True, '1', True),
        (False, False, '1', False),
    ],
)
def test_compiled_for(tmp_path, gpu, nvcc, force, cuda):
    for name, text in {'python': PYTHON, 'nvcc': '#!/bin/sh\n'}.items():
        if name != 'nvcc' or nvcc:
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ['sh', 'requirements/mmcv.sh', tmp_path / 'python', 'onedl', 'compiled'],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={
            'PATH': f'{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin',
            'CUDA_HOME': str(tmp_path / 'none'),
            'FORCE_CUDA': force,
            'NO_GPU': '01'[not gpu],
        },
    )
    assert done.returncode == 0, done.stderr
    assert ('the CPU only' in done.stdout) == (not cuda)
    # The rule of mmcv's setup.py, whose compilation for CUDA fails without nvcc.
    forced, visible = (tmp_path / 'python.built').read_text().rstrip('\n').split(' ')
    assert (forced == '1' or (gpu and visible == 'all')) == cuda
