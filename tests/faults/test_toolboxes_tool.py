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
EPOCHS = 3

CONFIG = """
_base_ = '{folder}/detector.py'
runner_type = 'ra_mm.SafeRunner'
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
"""


@pytest.fixture
def train(configs, tmp_path, in_a_process):
    """Train in a process, and kill it before or after its n-th rename.

    Returns the exit status and, for each rename, the checkpoints before it.
    """
    config = tmp_path / 'own_tool.py'
    config.write_text(CONFIG.format(folder=configs, epochs=EPOCHS))

    def train(work_dir, *argv, kill=None):
        noted = []

        def run():
            replace = os.replace

            def replace_and_note(part, path):
                noted.append(sorted(p.name for p in work_dir.glob('epoch_*.pth')))
                (tmp_path / 'noted.json').write_text(json.dumps(noted))
                if kill == ('before', len(noted)):
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(part, path)
                if kill == ('after', len(noted)):
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = replace_and_note
            options = [str(config), '--work-dir', str(work_dir), *argv]
            sys.argv = [str(TOOL), *options]
            runpy.run_path(str(TOOL), run_name='__main__')

        status, _ = in_a_process(run)
        return status, json.loads((tmp_path / 'noted.json').read_text())

    return train


def names(folder):
    return [path.name for path in folder.glob('*.pth')]


def test_kill_and_resume(train, tmp_path):
    """Nothing is lost, and each checkpoint is deleted after its successor."""
    uninterrupted, killed = tmp_path / 'uninterrupted', tmp_path / 'killed'
    status, noted = train(uninterrupted)
    assert status == 0
    assert noted == [[], ['epoch_1.pth'], ['epoch_2.pth']]
    assert names(uninterrupted) == ['epoch_3.pth']

    status, _ = train(killed, kill=('before', 2))
    assert status == -signal.SIGKILL and names(killed) == ['epoch_1.pth']
    status, _ = train(killed, '--resume', kill=('after', 1))
    assert status == -signal.SIGKILL
    assert sorted(names(killed)) == ['epoch_1.pth', 'epoch_2.pth']
    status, noted = train(killed, '--resume')
    assert status == 0 and len(noted) == 1  # from the second, not the first

    ends = [
        torch.load(folder / f'epoch_{EPOCHS}.pth', weights_only=False)
        for folder in (uninterrupted, killed)
    ]
    # The weights differ by the random flips after the resumption.
    assert ends[1]['meta']['iter'] == ends[0]['meta']['iter']
    assert ends[1]['param_schedulers'] == ends[0]['param_schedulers']
    assert ends[1]['state_dict'].keys() == ends[0]['state_dict'].keys()
