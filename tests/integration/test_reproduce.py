"""tools/reproduce.py: killed and started again, and mistakes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ra_mm.errors import UserError
from reproduction.ledger import Ledger
from reproduction.process import lock

REPO = Path(__file__).parents[2]

# The first two rows of Table 9 on 16 pictures: 10 epochs of one iteration each.
ROWS = 'table9', '--rows', 'ResNet18', '--scale', 'demo'
COMMAND = [sys.executable, REPO / 'tools/reproduce.py', *ROWS]
FIRST, SECOND = 'ra_r18_no_annealing-seed0', 'ra_r18-seed0'


def training_group(text):
    """The process group in the lock file, and in the message of the tool."""
    return int(re.search(r'kill -- -(\d+)', text)[1])


def test_killed_and_started_again(shapes, tmp_path):
    """SIGKILL in the second of two runs, then the same command.

    The killed tool leaves a training behind, which the next command refuses to
    join; the message says how to stop it.
    """
    out = tmp_path / 'out'
    command = [*COMMAND, '--data', shapes / 'classes', '--out', out]
    second = out / 'runs' / SECOND
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (second / 'epoch_3.pth').exists() and process.poll() is None:
        os.sched_yield()
    # Training would continue and might end before the next command.
    group = training_group((out / '.lock').read_text())
    os.killpg(group, signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output
    first = Ledger.read(out).runs[FIRST]
    assert first.status == 'done' and first.metrics['top1'] >= 0
    assert Ledger.read(out).runs[SECOND].status == 'running'

    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert training_group(refused.stderr) == group
    os.killpg(group, signal.SIGKILL)
    while True:
        try:
            with lock(out):
                break
        except UserError:
            os.sched_yield()

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert FIRST not in done.stdout
    assert re.search(rf'{SECOND}: resumed from epoch_[3-9].pth', done.stdout)
    ledger = Ledger.read(out)
    assert ledger.runs[FIRST] == first
    run = ledger.runs[SECOND]
    assert run.status == 'done' and '--resume' in run.command
    assert [step for step, _ in run.curves['val/top1']] == [*range(1, 11)]
    assert [
        len(list((out / 'runs' / name).glob('20*'))) for name in (FIRST, SECOND)
    ] == [1, 2]
    html = (out / 'report.html').read_text(encoding='utf-8')
    assert 'with Temp' in html and html.endswith('</html>\n')
    rows = [(row.name, row.paper, row.runs) for row in ledger.rows]
    assert rows == [('without Temp', {}, [FIRST]), ('with Temp', {}, [SECOND])]


@pytest.fixture(scope='module')
def reproduce(tool):
    return tool('reproduce')


@pytest.mark.parametrize(
    'argv, expected',
    [
        (['tabel4'], 'tabel4'),
        (['table4', '--data', 'nowhere'], '--data .*nowhere'),
        (['table4', '--gpus', '99'], '--gpus 99'),
        (['table4', '--gpus', '2', '--launcher', 'none'], '--launcher pytorch'),
        (['report', 'nowhere'], 'nowhere'),
    ],
)
def test_mistake(reproduce, message, argv, expected):
    assert re.search(expected, message(reproduce, *argv), re.S)


@pytest.mark.parametrize(
    'argv, expected',
    [
        ('table4 --cfg-options a=1', '--cfg-options needs --data'),
        ('table4 --weights w.pth', '--weights is for finetune'),
        ('finetune', 'finetune needs --data'),
    ],
)
def test_options_that_do_not_go_together(reproduce, capsys, argv, expected):
    with pytest.raises(SystemExit):
        reproduce(*argv.split())
    assert expected in capsys.readouterr().err


def test_dry_run_writes_nothing(reproduce, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reproduce('table4', '--dry-run', '--gpus', 8)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0].startswith(
        'torchrun --standalone --nproc_per_node=8 '
        f'{REPO}/tools/train.py {REPO}/configs/imagenet'
        '/r50.py --work-dir work_dirs/'
    )
    reproduce('table9', '--dry-run', '--scale', 'demo', '--data', shapes / 'classes')
    assert 'config.py is written when' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
