"""A training that is killed over and over, and goes on each time."""

import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import pytest
import torch
from mmengine.hooks import CheckpointHook
from test_train import ROOT, scalars

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


def train(config, work_dir, *resume):
    spec = importlib.util.spec_from_file_location('train', ROOT / 'tools/train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main([str(config), '--work-dir', str(work_dir), *resume])


def in_a_process(*argv, seconds=None, calls=None):
    """Train in a fork, and kill it after some time, or while it saves.

    ``calls`` counts the functions, Python's and C's, that are called from the
    moment when a checkpoint is due until it is saved and noted. Returns the
    exit code and the number of such calls.
    """
    count = multiprocessing.Value('q', 0, lock=False)

    def run():
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        names = '_save_checkpoint_with_step', '_save_best_checkpoint'

        def profile(frame, event, arg):
            count.value += 1
            if count.value == calls:
                os.kill(os.getpid(), signal.SIGKILL)

        def watched(save):

            def saving(*args, **kwargs):
                before = sys.getprofile()
                sys.setprofile(profile)
                save(*args, **kwargs)
                sys.setprofile(before)

            return saving

        for name in names:
            setattr(CheckpointHook, name, watched(getattr(CheckpointHook, name)))
        train(*argv)

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    process.join(seconds or 100)
    process.kill()
    process.join()
    return process.exitcode, count.value


def steps(work_dir):
    """All iterations in the order of their logging, with their temps."""
    return [(i, temp) for i, temp, _ in scalars(work_dir)]


def validations(work_dir):
    """Metrics by epoch, over all restarts."""
    entries = [
        json.loads(line)
        for path in sorted(work_dir.glob('20*/vis_data/scalars.json'))
        for line in path.read_text().splitlines()
        if 'accuracy' in line
    ]
    return {entry['step']: entry['accuracy/top1'] for entry in entries}


def test_twenty_kills(config, tmp_path):
    """In the end everything is as if nobody had killed it."""
    whole, work = tmp_path / 'whole', tmp_path / 'killed'
    start = time.monotonic()
    code, calls = in_a_process(config, whole)
    seconds = time.monotonic() - start
    assert code == 0 and calls > EPOCHS * 100
    temps = dict(steps(whole))
    assert list(temps) == list(range(EPOCHS * ITERS))

    rng = random.Random(0)
    killed = 0
    while killed < 20:
        shutil.rmtree(work, ignore_errors=True)
        done, there = False, [0, 0]  # once there is one, there always is
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
            code, _ = in_a_process(config, work, *['--resume'] * bool(saved), **moment)
            assert code in (0, -signal.SIGKILL)
            done = code == 0
            killed += not done
            logged = steps(work)[before:]
            first = max(saved, default=0) * ITERS
            assert [i for i, _ in logged] == list(range(first, first + len(logged)))
            assert dict(logged).items() <= temps.items()

        ends = [
            torch.load(folder / f'epoch_{EPOCHS}.pth', weights_only=False)
            for folder in (whole, work)
        ]
        for end in ends:
            end['momentum'] = end['optimizer']['state']
        for key in ('state_dict', 'momentum'):
            torch.testing.assert_close(ends[1][key], ends[0][key], rtol=0, atol=0)
        assert ends[1]['param_schedulers'] == ends[0]['param_schedulers']
        assert validations(work) == validations(whole)
        assert [p.name for p in work.glob('best_*')] == [
            p.name for p in whole.glob('best_*')
        ]
