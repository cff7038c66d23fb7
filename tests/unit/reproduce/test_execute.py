"""What happens to runs that end well, badly, or not at all.

Training is played by a few lines that leave behind what tools/train.py does;
tests/test_tools/test_reproduce.py trains really.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from ra_mm.reproduce import execute, paper
from ra_mm.reproduce.execute import Executor, collect, lock, new_entry
from ra_mm.reproduce.ledger import Ledger
from ra_mm.reproduce.plan import Job, Run, Setting

EPOCHS = 4
# argv: work dir, what to do ('fail' in epoch 3, 'crash' in the validation of
# epoch 4, 'diverge', 'blind' finds nothing), --resume
TRAIN = """
import json, re, sys, zipfile
from pathlib import Path
folder, act, *resume = sys.argv[1:]
folder = Path(folder)
done = max([int(p.stem[6:]) for p in folder.glob('epoch_*.pth')] or [0])
assert bool(done) == bool(resume)
log = folder / f'start{len(list(folder.glob("start*")))}/vis_data'
log.mkdir(parents=True)
def write(**entry):
    with open(log / 'scalars.json', 'a') as f:
        f.write(json.dumps(entry) + '\\n')
def validate(epoch):
    if act == 'crash' and epoch == 4:
        sys.exit('while validating')
    metrics = {} if act == 'blind' else {'coco/bbox_mAP': 0.1 * epoch,
                                         'coco/bbox_mAP_s': -1.0}
    write(**metrics, step=epoch)
if done:
    validate(done)
for epoch in range(done + 1, 5):
    if act == 'fail' and epoch == 3:
        sys.exit('no\\nmore\\nmemory')
    loss = float('nan') if act == 'diverge' and epoch == 4 else 1 / epoch
    write(loss=loss, lr=0.1, temp=2.0, memory=10 * epoch, step=epoch)
    print(f'Epoch(train) [{epoch}][1/1]')
    zipfile.ZipFile(folder / f'epoch_{epoch}.pth', 'w').close()
    validate(epoch)
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """An executor of three runs, of which the last needs the first."""
    (tmp_path / 'train.py').write_text(TRAIN)
    setting = Setting('demo', tmp_path)
    start = Run(paper.CONFIGS / 'imagenet/r50.py', 0)
    runs = [
        start,
        Run(paper.CONFIGS / 'imagenet/r18.py', 0),
        Run(paper.CONFIGS / 'faster_rcnn_r50.py', 0, start),
    ]
    acts = {}

    def make_job(run, setting):
        folder = setting.work_dir(run)
        command = [
            'python',
            str(tmp_path / 'train.py'),
            str(folder),
            acts.get(run.config.stem, 'learn'),
        ]
        cfg = Config(
            dict(
                default_scope='mmdet',
                model=dict(type='', backbone=dict(type='ResNet')),
                train_cfg=dict(max_epochs=EPOCHS),
            )
        )
        return Job(cfg, run.config, command, folder / 'epoch_4.pth', None)

    def execute_all():
        plan = {run.id: run for run in runs}
        ledger = Ledger(tmp_path)
        ledger.add(
            'demo', None, 1, [], {run.id: new_entry(run, setting) for run in runs}
        )
        with lock(tmp_path) as fd:
            failed = Executor(plan, setting, ledger, fd)()
        return failed, Ledger(tmp_path).runs

    monkeypatch.setattr(execute, 'make_job', make_job)
    monkeypatch.setattr(execute, 'count', lambda *_: dict(params=1.0, flops=2.0))
    monkeypatch.setattr(execute, 'write_report', lambda folder: None)
    execute_all.acts = acts
    execute_all.folder = tmp_path
    return execute_all


def starts(world, name):
    return len(list((world.folder / f'runs/{name}-seed0').glob('start*')))


def test_done(world):
    failed, runs = world()
    assert failed == []
    run = runs['faster_rcnn_r50-seed0']
    assert run['status'] == 'done' and run['error'] is None
    assert run['needs'] == 'r50-seed0'
    assert run['metrics'] == {'AP': 40.0}  # no small objects: no APs
    assert run['curves']['loss'] == [[1, 1], [2, 0.5], [3, 0.33333], [4, 0.25]]
    assert run['curves']['val/AP'] == [[1, 10], [2, 20], [3, 30], [4, 40]]
    assert run['peak_memory_mb'] == 40
    assert run['checkpoint'] == 'runs/faster_rcnn_r50-seed0/epoch_4.pth'
    assert (run['params'], run['flops']) == (1, 2)
    assert run['versions']['python'].startswith('3.')
    assert run['hardware']['count'] == 1
    # Once more: nothing is run again.
    assert world() == ([], runs)
    assert starts(world, 'r50') == 1


def test_failure_stops_only_those_that_need_it(world, capsys):
    world.acts['r50'] = 'fail'
    failed, runs = world()
    assert failed == ['r50-seed0', 'faster_rcnn_r50-seed0']
    assert runs['r50-seed0']['error'].endswith('\nno\nmore\nmemory')
    assert 'no\nmore\nmemory' in capsys.readouterr().out
    assert runs['faster_rcnn_r50-seed0']['error'].startswith('needs r50-seed0')
    assert runs['r18-seed0']['status'] == 'done'

    world.acts.clear()
    failed, again = world()
    assert failed == []
    assert again['r18-seed0'] == runs['r18-seed0']
    assert again['r50-seed0']['command'].endswith(' --resume')
    assert starts(world, 'r50') == 2 and starts(world, 'r18') == 1
    assert [step for step, _ in again['r50-seed0']['curves']['loss']] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    'act, error',
    [
        ('diverge', 'diverged: its last loss is nan'),
        ('blind', 'no coco/bbox_mAP: the model finds nothing'),
    ],
)
def test_trained_to_the_end_in_vain(world, act, error):
    world.acts['r18'] = act
    failed, runs = world()
    assert failed == ['r18-seed0']
    assert error in runs['r18-seed0']['error']
    assert runs['r18-seed0']['metrics'] == {}
    # There is nothing to resume: it is trained anew.
    world.acts.clear()
    failed, runs = world()
    assert failed == [] and starts(world, 'r18') == 1
    assert runs['r18-seed0']['metrics'] == {'AP': 40.0}


def test_crash_in_the_last_validation(world):
    world.acts['r18'] = 'crash'
    failed, runs = world()
    assert failed == ['r18-seed0']
    assert 'while validating' in runs[failed[0]]['error']
    world.acts.clear()
    failed, runs = world()
    assert failed == [] and starts(world, 'r18') == 2
    assert runs['r18-seed0']['metrics'] == {'AP': 40.0}


def test_killed_after_the_last_checkpoint(world):
    """Before its validation: that alone. After it: nothing."""
    _, runs = world()
    ledger = Ledger(world.folder)
    ledger.runs['r18-seed0']['status'] = 'running'
    ledger.save()
    assert world() == ([], runs)
    assert starts(world, 'r18') == 1

    ledger.save()
    (log,) = (world.folder / 'runs/r18-seed0').glob('start*/vis_data/*')
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(''.join(lines[:-1]) + '{"coco/bbox_mA')
    _, again = world()
    assert starts(world, 'r18') == 2
    assert again['r18-seed0']['metrics'] == {'AP': 40.0}
    assert len(again['r18-seed0']['curves']['val/AP']) == 4
    assert len(again['r18-seed0']['curves']['loss']) == 4
    resumed = world.folder / 'runs/r18-seed0/start1/vis_data/scalars.json'
    assert 'loss' not in resumed.read_text()


def test_full_disk(world, monkeypatch):
    _, before = world()
    ledger = Ledger(world.folder)
    ledger.runs.clear()

    def fsync(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError, match='No space left on device.*it is whole'):
        ledger.save()
    assert Ledger(world.folder).runs == before
    assert not list(world.folder.glob('.ledger*'))


def test_lock_lasts_as_long_as_the_training(tmp_path):
    """A tool that was killed leaves a training that still has the lock."""
    with lock(tmp_path) as fd:
        with pytest.raises(ValueError, match='is at work in .*--out'):
            with lock(tmp_path, patience=0):
                pass
        child = subprocess.Popen(
            [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=(fd,)
        )
    with pytest.raises(ValueError, match='is at work in'):
        with lock(tmp_path, patience=0):
            pass
    child.communicate(b'\n')
    with lock(tmp_path):
        pass


def test_long_curves_are_thinned(tmp_path):
    log = tmp_path / 'start/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    entries = [
        dict(step=i, loss=float(i), lr=0.1, G_layer1_mean=1.0, time=2.0)
        for i in range(1, 1000)
    ]
    log.write_text('\n'.join(map(json.dumps, entries)))
    cfg = Config(dict(default_scope='mmseg', train_cfg=dict(max_iters=999)))
    curves = collect(tmp_path, cfg)['curves']
    assert set(curves) == {'loss', 'lr', 'G_layer1_mean'}
    steps = [step for step, _ in curves['loss']]
    assert 200 < len(steps) <= 300 and steps[-1] == 999


@pytest.mark.parametrize(
    'line, expected',
    [
        ('Epoch(train)   [3][ 50/100]  lr: 1', 0.25),
        ('Iter(train) [ 40/200]  lr: 1', 0.2),
        ('nothing yet', 0),
    ],
)
def test_progress(tmp_path, line, expected):
    log = tmp_path / 'train.log'
    log.write_text(f'Epoch(train) [1][10/100]\n{line}\n' if expected else line)
    cfg = Config(dict(train_cfg=dict(max_epochs=10)))
    assert execute.progress(Path(log), cfg) == expected


def test_duration():
    assert [execute.duration(s) for s in (12.4, 185, 7500)] == [
        '12 s',
        '3:05 min',
        '2:05 h',
    ]
