"""What training saves, by mmengine's own Runner and CheckpointHook."""

import os

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ra_mm.engine.checkpoint_io import (
    ValidateResumedHook,
    latest_checkpoint,
    read_checkpoint,
    save_whole,
)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode):
        return dict(loss=self.weight.sum()) if mode == 'loss' else [inputs]


class Rising(BaseMetric):
    """A score that is always the best so far."""

    def process(self, *_):
        self.results.append(0)

    def compute_metrics(self, results):
        self.score = getattr(self, 'score', 0) + 1
        return dict(score=np.float32(self.score))


def run(
    folder,
    epochs=3,
    by_epoch=True,
    hooks=(),
    save_best='score',
    checkpoint={},
    loop={},
    **kwargs,
):
    """Epochs of one iteration, or as many iterations."""
    loader = dict(
        dataset=[dict(inputs=torch.ones(1))],
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
        num_workers=0,
    )
    sampler = loader['sampler'] if by_epoch else dict(type='InfiniteSampler')
    runner = Runner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=dict(loader, sampler=sampler),
        val_dataloader=loader,
        train_cfg=dict(
            {
                'by_epoch': by_epoch,
                'val_interval': 1,
                'max_epochs' if by_epoch else 'max_iters': epochs,
            },
            **loop,
        ),
        val_cfg={},
        val_evaluator=Evaluator(Rising()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook',
                max_keep_ckpts=1,
                **{'interval': 1, 'by_epoch': by_epoch, **checkpoint},
                save_best=save_best,
                rule='greater',
            )
        ),
        custom_hooks=list(hooks),
        experiment_name=f'{folder.parent.name}{folder.name}',
        log_level='WARNING',
        **kwargs,
    )
    save_whole(runner)
    if kwargs.get('resume'):
        runner.register_hook(ValidateResumedHook())
    runner.train()


def names(folder):
    return {p.name for p in folder.iterdir() if '.pth' in p.name}


def test_outdated_after_its_successor(tmp_path, monkeypatch):
    """Whenever a checkpoint appears, the one of before is still there."""
    there = []
    replace = os.replace

    def watched(part, path):
        replace(part, path)
        there.append(names(tmp_path))

    monkeypatch.setattr(os, 'replace', watched)
    run(tmp_path)
    epochs = [{f'epoch_{i}.pth', f'best_score_epoch_{i}.pth'} for i in range(1, 4)]
    first, second, third = epochs
    assert there == [
        {'epoch_1.pth'},
        first,
        first,
        first | {'epoch_2.pth'},
        second | {'best_score_epoch_1.pth'},
        second,
        second | {'epoch_3.pth'},
        third | {'best_score_epoch_2.pth'},
        third,
    ]
    assert names(tmp_path) == third


def test_linked_checkpoint(tmp_path):
    """Of one that was moved elsewhere, the link is deleted."""
    run(tmp_path / 'work', epochs=1)
    (tmp_path / 'work/epoch_1.pth').rename(tmp_path / 'kept.pth')
    (tmp_path / 'work/epoch_1.pth').symlink_to(tmp_path / 'kept.pth')
    run(tmp_path / 'work', epochs=2, resume=True, load_from=str(tmp_path / 'kept.pth'))
    assert (tmp_path / 'kept.pth').exists()
    assert 'epoch_1.pth' not in names(tmp_path / 'work')


def test_other_runs_are_left_alone(tmp_path):
    """A run that goes on from another's checkpoint deletes its own alone."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    run(one)
    before = names(one)
    run(two, epochs=4, resume=True, load_from=str(one / 'epoch_3.pth'))
    run(two, epochs=5, resume=True, load_from=str(two / 'epoch_4.pth'))
    assert names(one) == before
    assert 'epoch_5.pth' in names(two)


@pytest.mark.parametrize(
    'checkpoint, expected',
    [
        (dict(filename_tmpl='latest.pth'), {'latest.pth', 'best_score_latest.pth'}),
        (dict(interval=-1, save_last=False), {'best_score_epoch_3.pth'}),
        (dict(interval=3), {'epoch_3.pth', 'best_score_epoch_3.pth'}),
    ],
)
def test_best_of_other_settings(tmp_path, checkpoint, expected):
    """One name for all, and the best alone: the last one is there, no more."""
    run(tmp_path, checkpoint=checkpoint)
    assert names(tmp_path) == expected


def test_one_name_in_another_folder(tmp_path, monkeypatch):
    """The successor is not deleted for its predecessor."""
    monkeypatch.chdir(tmp_path)
    run(
        tmp_path / 'work',
        epochs=2,
        save_best=None,
        checkpoint=dict(filename_tmpl='latest.pth', out_dir='./elsewhere'),
    )
    assert names(tmp_path / 'elsewhere/work') == {'latest.pth'}


class Watch(Hook):
    """Gives each epoch its score, notes the learning rates, and kills."""

    def __init__(self, scores, lrs, kill=None):
        self.scores, self.lrs, self.kill = scores, lrs, kill

    def before_train_iter(self, runner, *_, **__):
        if runner.iter == self.kill:
            raise KeyboardInterrupt
        self.lrs += runner.optim_wrapper.get_lr()['lr']

    def before_val_epoch(self, runner):
        (metric,) = runner.val_loop.evaluator.metrics
        metric.score = self.scores[runner.iter - 1] - 1


@pytest.mark.parametrize(
    'scores', [[1, 2, 2, 2, 2], [2, 1, 1, 2, 2]], ids=['the best', 'another']
)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_validation_counts_once(tmp_path, scores, by_epoch):
    """Of the epoch that is resumed, the best so far or not.

    Its validation brings the best checkpoint and a step of ReduceOnPlateauLR.
    """
    whole, killed, lrs = tmp_path / 'whole', tmp_path / 'killed', ([], [])
    settings = dict(
        epochs=5,
        by_epoch=by_epoch,
        param_scheduler=dict(
            type='ReduceOnPlateauLR', monitor='score', rule='greater', patience=1
        ),
    )
    run(whole, hooks=[Watch(scores, lrs[0])], **settings)
    with pytest.raises(KeyboardInterrupt):
        run(killed, hooks=[Watch(scores, lrs[1], kill=2)], **settings)
    run(
        killed,
        hooks=[Watch(scores, lrs[1])],
        resume=True,
        load_from=str(killed / f'{"epoch" if by_epoch else "iter"}_2.pth'),
        **settings,
    )
    assert lrs[1] == lrs[0] and lrs[0][-1] < lrs[0][0]
    assert names(killed) == names(whole)


class Validations(Hook):
    def __init__(self):
        self.done = []

    def before_val_epoch(self, runner):
        self.done.append(runner.iter)


@pytest.mark.parametrize(
    'epochs, loop, checkpoint, expected',
    [
        (4, dict(val_interval=2), {}, [2, 4]),
        (4, dict(val_interval=3), {}, [3, 4]),
        (4, dict(val_begin=3), {}, [3, 4]),
        (4, dict(val_interval=9, dynamic_intervals=[(1, 9), (3, 2)]), {}, [2, 4]),
        (2, dict(val_interval=9), {}, [2]),  # it had come to its end
        (4, {}, dict(by_epoch=False), [3, 4, 5]),  # mmengine repeats an epoch
    ],
)
def test_validation_that_is_due(tmp_path, epochs, loop, checkpoint, expected):
    """After 2 epochs by the run's own settings, as without interruption."""
    settings = dict(loop=loop, checkpoint=checkpoint, save_best=None)
    run(tmp_path, epochs=2, **settings)
    hook = Validations()
    run(
        tmp_path,
        epochs=epochs,
        hooks=[hook],
        resume=True,
        load_from=latest_checkpoint(tmp_path),
        **settings,
    )
    assert hook.done == expected


def test_early_stop_is_resumed(tmp_path):
    """A run that has reached its threshold has nothing left to do."""
    stop = dict(
        type='EarlyStoppingHook', monitor='score', rule='greater', stopping_threshold=2
    )
    run(tmp_path, epochs=5, hooks=[stop, Watch([1, 2, 3, 4, 5], [])])
    assert 'epoch_3.pth' in names(tmp_path)
    lrs = []
    run(
        tmp_path,
        epochs=5,
        hooks=[stop, Watch([1, 2, 3, 4, 5], lrs)],
        resume=True,
        load_from=str(tmp_path / 'epoch_3.pth'),
    )
    assert lrs == [] and 'epoch_3.pth' in names(tmp_path)


def test_latest(tmp_path):
    """The noted one, or one saved after the note; never a former run's."""
    assert latest_checkpoint(tmp_path) is None
    note = tmp_path / 'last_checkpoint'
    paths = [tmp_path / f'epoch_{i}.pth' for i in range(12)]
    for path, time in [(paths[11], 1), (paths[2], 2), (note, 3)]:
        torch.save({}, path)
        os.utime(path, (time, time))
    note.write_text('')
    assert latest_checkpoint(tmp_path) == str(paths[11])  # an empty note
    note.write_text(str(paths[2]))
    os.utime(note, (3, 3))
    assert latest_checkpoint(tmp_path) == str(paths[2])
    torch.save({}, paths[3])  # killed before the note
    paths[4].write_bytes(paths[3].read_bytes()[:100])  # or by another tool
    assert latest_checkpoint(tmp_path) == str(paths[3])
    torch.save({}, paths[1])  # by hand, from an older one
    assert latest_checkpoint(tmp_path) == str(paths[3])
    note.write_text('/moved/epoch_3.pth')
    assert latest_checkpoint(tmp_path) == str(paths[11])


class Info(Hook):
    def __init__(self, value):
        self.value = value

    def before_train(self, runner):
        runner.message_hub.update_info('value', self.value)


def test_saved_objects_that_cannot_be_read(tmp_path):
    """A run stops at its first checkpoint, not at its resumption."""
    with pytest.raises(ValueError, match='could not be resumed from.*range'):
        run(tmp_path, hooks=[Info(range(3))])
    assert not names(tmp_path)


@pytest.mark.parametrize(
    'value',
    [
        np.float32(0.5),
        np.float16(0.5),
        np.int32(7),
        np.bool_(True),
        np.ones((2, 3), np.uint8),
        ConfigDict(a=dict(b=[1, dict(c=2)])),
    ],
    ids=str,
)
def test_plain_values_are_read(tmp_path, value):
    torch.save(dict(value=value), tmp_path / 'a.pth')
    read = read_checkpoint(str(tmp_path / 'a.pth'))['value']
    assert type(read) is type(value)
    assert np.array_equal(read, value)


def test_full_disk(tmp_path, monkeypatch):
    """Nothing of the checkpoint stays, and that of before does."""

    def full(*_):
        raise OSError(28, 'No space left on device')

    run(tmp_path, epochs=1, save_best=None)
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='No space'):
        run(tmp_path, epochs=2, save_best=None, resume=True)
    assert names(tmp_path) == {'epoch_1.pth'}
