"""A training that is killed again and again, and resumed each time."""

import json
import random
import shutil
import signal
import time

import pytest
import torch

EPOCHS, ITERS = 6, 4

CONFIG = """
_base_ = '{folder}/classifier.py'
train_cfg = dict(max_epochs={epochs}, val_interval=2)
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(
        max_keep_ckpts=1, save_best='accuracy/top1', rule='greater'))
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=3)]
"""


@pytest.fixture(scope='module')
def config(configs):
    path = configs / 'killed.py'
    path.write_text(CONFIG.format(folder=configs, epochs=EPOCHS))
    return path


@pytest.fixture
def train(tool, in_a_process):
    """Train in a process, which can be killed, see :func:`in_a_process`."""

    def train(config, work_dir, *resume, **moment):
        argv = [config, '--work-dir', work_dir, *resume]
        return in_a_process(lambda: tool('train')(*argv), **moment)

    return train


@pytest.fixture
def steps(scalars):
    """All iterations of a work directory as they were logged, with their temps."""
    return lambda work_dir: [(i, temp) for i, temp, _ in scalars(work_dir)]


def validations(work_dir):
    """The metrics of all restarts, by epoch."""
    entries = [
        json.loads(line)
        for path in sorted(work_dir.glob('20*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
        if 'accuracy' in line
    ]
    return {entry['step']: entry['accuracy/top1'] for entry in entries}


def test_twenty_kills(config, train, steps, tmp_path):
    """The result is the one of a training that was not killed."""
    uninterrupted, work = tmp_path / 'uninterrupted', tmp_path / 'killed'
    start = time.monotonic()
    code, calls = train(config, uninterrupted)
    seconds = time.monotonic() - start
    assert code == 0 and calls > EPOCHS * 100
    temps = dict(steps(uninterrupted))
    assert list(temps) == list(range(EPOCHS * ITERS))

    rng = random.Random(0)
    killed = 0
    while killed < 20:
        shutil.rmtree(work, ignore_errors=True)
        done, there = False, [0, 0]  # once there is a checkpoint, there always is
        while not done:
            saved = {
                int(path.stem.split('_')[1]): path for path in work.glob('epoch_*.pth')
            }
            for epoch, path in saved.items():  # each of them can be read
                meta = torch.load(path, weights_only=False)['meta']
                assert meta['iter'] == epoch * ITERS
            for count, pattern in enumerate(['epoch_*.pth', 'best_*.pth']):
                assert len(list(work.glob(pattern))) >= there[count]
                there[count] = min(1, len(list(work.glob(pattern))))
            before = len(steps(work))
            if killed % 2:
                moment = dict(seconds=rng.uniform(0.2, 0.8) * seconds)
            else:
                moment = dict(calls=rng.randrange(1, calls // EPOCHS))
            code, _ = train(config, work, *['--resume'] * bool(saved), **moment)
            assert code in (0, -signal.SIGKILL)
            done = code == 0
            killed += not done
            logged = steps(work)[before:]
            first = max(saved, default=0) * ITERS
            assert [i for i, _ in logged] == list(range(first, first + len(logged)))
            assert dict(logged).items() <= temps.items()

        ends = [
            torch.load(folder / f'epoch_{EPOCHS}.pth', weights_only=False)
            for folder in (uninterrupted, work)
        ]
        for end in ends:
            end['momentum'] = end['optimizer']['state']
        for key in ('state_dict', 'momentum'):
            torch.testing.assert_close(ends[1][key], ends[0][key], rtol=0, atol=0)
        assert ends[1]['param_schedulers'] == ends[0]['param_schedulers']
        assert validations(work) == validations(uninterrupted)
        assert [p.name for p in work.glob('best_*')] == [
            p.name for p in uninterrupted.glob('best_*')
        ]
