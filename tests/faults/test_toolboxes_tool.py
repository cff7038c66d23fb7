"""runner_type='ra_mm.SafeRunner' is all that MMDetection's own tool needs."""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

import mmdet
import pytest
import torch

TOOL = Path(mmdet.__file__).parent / '.mim/tools/train.py'
EPOCHS, ITERS = 3, 2

CONFIG = """
_base_ = '{folder}/detector.py'
runner_type = 'ra_mm.SafeRunner'
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
"""


@pytest.fixture
def train(configs, tmp_path, in_a_process):
    """Train in a process, which notes what is there when a checkpoint appears."""
    config = tmp_path / 'own_tool.py'
    config.write_text(CONFIG.format(folder=configs, epochs=EPOCHS))

    def train(work_dir, *argv, **moment):
        noted = []

        def run():
            replace = os.replace

            def noting(part, path):
                noted.append(sorted(p.name for p in work_dir.glob('epoch_*.pth')))
                (tmp_path / 'noted.json').write_text(json.dumps(noted))
                replace(part, path)

            os.replace = noting
            sys.argv = [*(str(TOOL), str(config), '--work-dir', str(work_dir)), *argv]
            runpy.run_path(str(TOOL), run_name='__main__')

        status, calls = in_a_process(run, **moment)
        return status, calls, json.loads((tmp_path / 'noted.json').read_text())

    return train


def test_kill_and_resume(train, tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    status, calls, noted = train(whole)
    assert status == 0
    # Each is deleted after its successor is there.
    assert noted == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert [p.name for p in whole.glob('*.pth*')] == ['epoch_3.pth']

    for share in (0.45, 0.6):  # while the second one is saved
        resume = ['--resume'] * killed.exists()
        status, _, _ = train(killed, *resume, calls=int(share * calls / len(noted) * 2))
        assert status == -signal.SIGKILL
        saved = list(killed.glob('epoch_*.pth'))
        assert saved
        for path in saved:  # each of them can be read
            meta = torch.load(path, weights_only=False)['meta']
            assert path.name == f'epoch_{meta["iter"] // ITERS}.pth'
    status, _, _ = train(killed, '--resume')
    assert status == 0

    ends = [
        torch.load(folder / f'epoch_{EPOCHS}.pth', weights_only=False)
        for folder in (whole, killed)
    ]
    for key in ('state_dict', 'param_schedulers'):
        torch.testing.assert_close(ends[1][key], ends[0][key], rtol=0, atol=0)
    torch.testing.assert_close(
        ends[1]['optimizer']['state'], ends[0]['optimizer']['state'], rtol=0, atol=0
    )
