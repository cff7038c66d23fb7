"""Runs that succeed, fail, or are killed.

A short script writes what tools/train.py would write; real training is tested
in tests/integration/test_reproduce.py.
"""

from pathlib import Path

import pytest
from mmengine.config import Config

from reproduction import execute, paper
from reproduction.job import Job
from reproduction.ledger import Ledger
from reproduction.plan import Run, Setting
from reproduction.process import lock
from reproduction.results import describe_exit

EPOCHS = 4
# Arguments: work directory, behaviour ('learn', 'fail' in epoch 3, 'crash' in the
# validation of epoch 4, 'diverge', 'blind', which detects nothing, or 'meet'), --resume.
TRAIN = """
import json, os, re, sys, zipfile
from pathlib import Path
folder, behaviour, *resume = sys.argv[1:]
folder = Path(folder)
done = max([int(p.stem[6:]) for p in folder.glob('epoch_*.pth')] or [0])
assert bool(done) == bool(resume)
log = folder / f'start{len(list(folder.glob("start*")))}/vis_data'
log.mkdir(parents=True)
def write(**entry):
    with open(log / 'scalars.json', 'a') as f:
        f.write(json.dumps(entry) + '\\n')
def validate(epoch):
    if behaviour == 'crash' and epoch == 4:
        sys.exit('while validating')
    metrics = {} if behaviour == 'blind' else {'coco/bbox_mAP': 0.1 * epoch,
                                         'coco/bbox_mAP_s': -1.0}
    write(**metrics, step=epoch)
if behaviour == 'meet':  # another training that runs at the same time
    (folder / 'here').touch()
    while len([*folder.parent.glob('*/here')]) < 2:
        os.sched_yield()
if done:
    validate(done)
for epoch in range(done + 1, 5):
    if behaviour == 'fail' and epoch == 3:
        sys.exit('no\\nmore\\nmemory')
    loss = float('nan') if behaviour == 'diverge' and epoch == 4 else 1 / epoch
    write(loss=loss, lr=0.1, temp=2.0, memory=10 * epoch, step=epoch)
    print(f'Epoch(train) [{epoch}][1/1]')
    zipfile.ZipFile(folder / f'epoch_{epoch}.pth', 'w').close()
    validate(epoch)
"""


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """Call it to execute three runs, the last of which needs the first.

    ``behaviours`` has what the configs do, by name.
    """
    (tmp_path / 'train.py').write_text(TRAIN)
    setting = Setting('demo', tmp_path)
    runs = [Run(paper.CONFIGS / f'imagenet/{name}.py', 0) for name in ('r50', 'r18')]
    runs.append(Run(paper.CONFIGS / 'faster_rcnn_r50.py', 0, runs[0]))
    behaviours = {}

    def make_job(run, setting):
        folder = setting.work_dir(run)
        command = ['python', str(tmp_path / 'train.py'), str(folder)]
        command += [behaviours.get(run.config.stem, 'learn')]
        cfg = dict(default_scope='mmdet', train_cfg=dict(max_epochs=EPOCHS))
        cfg['model'] = dict(type='', backbone=dict(type='ResNet'))
        return Job(Config(cfg), run.config, True, command, folder / 'epoch_4.pth')

    def execute_all(jobs=1):
        plan = {run.id: run for run in runs}
        ledger = Ledger.read(tmp_path)
        ledger.request(setting, [], 1, plan)
        ledger.save()
        with lock(tmp_path) as held:
            ended = [*execute.execute(plan, setting, ledger, held, jobs)]
        failed = [f'{Path(e.config).stem}-seed0' for e in ended if e.status == 'failed']
        return failed, Ledger.read(tmp_path).runs

    monkeypatch.setattr(execute, 'make_job', make_job)
    monkeypatch.setattr(execute, 'count_config', lambda *_: (1.0, 2.0))
    execute_all.behaviours = behaviours
    execute_all.folder = tmp_path
    return execute_all


def starts(executor, name):
    return len(list((executor.folder / f'runs/{name}-seed0').glob('start*')))


def test_done(executor):
    failed, runs = executor()
    assert failed == []
    run = runs['faster_rcnn_r50-seed0']
    assert run.status == 'done' and run.error is None
    assert run.needs == 'r50-seed0'
    assert run.metrics == {'AP': 40.0}  # no small objects: no APs
    assert run.curves['loss'] == [[1, 1], [2, 0.5], [3, 0.33333], [4, 0.25]]
    assert run.curves['val/AP'] == [[1, 10], [2, 20], [3, 30], [4, 40]]
    assert run.peak_memory_mb == 40
    assert run.checkpoint == 'runs/faster_rcnn_r50-seed0/epoch_4.pth'
    assert (run.params, run.flops) == (1, 2)
    assert run.versions['python'].startswith('3.')
    assert run.hardware['count'] == 1
    # A second time, nothing is run.
    assert executor() == ([], runs)
    assert starts(executor, 'r50') == 1


def test_failure_stops_only_those_that_need_it(executor, capsys):
    executor.behaviours['r50'] = 'fail'
    failed, runs = executor()
    assert failed == ['r50-seed0', 'faster_rcnn_r50-seed0']
    assert runs['r50-seed0'].error.endswith('\nno\nmore\nmemory')
    assert 'no\nmore\nmemory' in capsys.readouterr().out
    assert runs['faster_rcnn_r50-seed0'].error.startswith('needs r50-seed0')
    assert runs['r18-seed0'].status == 'done'

    executor.behaviours.clear()
    failed, again = executor()
    assert failed == []
    assert again['r18-seed0'] == runs['r18-seed0']
    assert again['r50-seed0'].command.endswith(' --resume')
    assert starts(executor, 'r50') == 2 and starts(executor, 'r18') == 1
    assert [step for step, _ in again['r50-seed0'].curves['loss']] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    'behaviour, error, count',
    [
        ('diverge', 'the last loss is nan', 1),
        ('blind', 'has no AP', 1),
        ('crash', 'while validating', 2),
    ],
)
def test_trained_to_the_end_in_vain(executor, behaviour, error, count):
    executor.behaviours['r18'] = behaviour
    failed, runs = executor()
    assert failed == ['r18-seed0']
    assert error in runs['r18-seed0'].error
    assert runs['r18-seed0'].metrics == {}
    # Unless a validation is missing, resuming would change nothing.
    executor.behaviours.clear()
    failed, runs = executor()
    assert failed == [] and starts(executor, 'r18') == count
    assert runs['r18-seed0'].metrics == {'AP': 40.0}


def test_killed_after_the_last_checkpoint(executor):
    """After a kill, only a missing last validation is run again."""
    _, runs = executor()
    ledger = Ledger.read(executor.folder)
    ledger.runs['r18-seed0'].status = 'running'
    ledger.save_run('r18-seed0')
    assert executor() == ([], runs)
    assert starts(executor, 'r18') == 1

    ledger.save_run('r18-seed0')
    (log,) = (executor.folder / 'runs/r18-seed0').glob('start*/vis_data/*')
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(''.join(lines[:-1]) + '{"coco/bbox_mA')
    _, again = executor()
    assert starts(executor, 'r18') == 2
    assert again['r18-seed0'].metrics == {'AP': 40.0}
    assert len(again['r18-seed0'].curves['val/AP']) == 4
    assert len(again['r18-seed0'].curves['loss']) == 4
    resumed = executor.folder / 'runs/r18-seed0/start1/vis_data/scalars.json'
    assert 'loss' not in resumed.read_text()


def test_time_of_a_training_that_outlived_the_tool(executor):
    executor()
    ledger = Ledger.read(executor.folder)
    entry = ledger.runs['r18-seed0']
    log = executor.folder / 'runs/r18-seed0/train.log'
    entry.status, entry.wall_s = 'running', 30.0
    entry.started = log.stat().st_mtime - 100
    ledger.save_run('r18-seed0')
    _, runs = executor()
    assert runs['r18-seed0'].wall_s == 100
    assert starts(executor, 'r18') == 1


def test_side_by_side(executor):
    """Runs fail apart, and a run waits for the one that it needs."""
    executor.behaviours |= dict(r50='meet', r18='meet', faster_rcnn_r50='fail')
    failed, runs = executor(jobs=3)
    assert failed == ['faster_rcnn_r50-seed0']
    assert 'needs' not in runs[failed[0]].error
    assert runs['r50-seed0'].metrics == runs['r18-seed0'].metrics == {'AP': 40.0}


@pytest.mark.parametrize(
    'place, jobs, gpus, expected', [(0, 1, 2, None), (1, 2, 2, '6,7'), (2, 3, 2, '4,5')]
)
def test_gpus_of_runs_side_by_side(monkeypatch, place, jobs, gpus, expected):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5,6,7')
    monkeypatch.setattr(execute.torch.cuda, 'device_count', lambda: 4)
    env = execute.share_machine(place, jobs, gpus)
    assert env.get('CUDA_VISIBLE_DEVICES') == expected


def test_cores_of_runs_side_by_side(monkeypatch):
    monkeypatch.setattr(execute.torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(execute, 'count_cpus', lambda: 8.0)
    assert execute.share_machine(0, 2, 2) == {'OMP_NUM_THREADS': '2'}
    assert execute.share_machine(0, 16, 1) == {'OMP_NUM_THREADS': '1'}


def test_out_of_memory(tmp_path):
    log = tmp_path / 'log'
    log.write_text('torch.OutOfMemoryError: CUDA out of memory.\n')
    assert '--jobs' in describe_exit(1, log)
    log.write_text('no traceback')
    assert '--jobs' in describe_exit(-9, log)
    assert '--jobs' not in describe_exit(1, log)
