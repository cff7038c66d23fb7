"""When checkpoints are deleted, and which validations take place on resume."""

import os

import pytest
from mmengine.hooks import Hook

from ra_mm.engine.checkpoint_io import latest_checkpoint


def test_outdated_after_its_successor(run, names, tmp_path, monkeypatch):
    """Whenever a checkpoint appears, the previous one still exists."""
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


def test_linked_checkpoint(run, names, tmp_path):
    """A link is deleted, and not the checkpoint that it points to."""
    run(tmp_path / 'work', epochs=1)
    (tmp_path / 'work/epoch_1.pth').rename(tmp_path / 'kept.pth')
    (tmp_path / 'work/epoch_1.pth').symlink_to(tmp_path / 'kept.pth')
    run(tmp_path / 'work', epochs=2, resume=True, load_from=str(tmp_path / 'kept.pth'))
    assert (tmp_path / 'kept.pth').exists()
    assert 'epoch_1.pth' not in names(tmp_path / 'work')


def test_other_runs_are_left_alone(run, names, tmp_path):
    """A run that resumes from another run deletes only its own checkpoints."""
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
def test_best_of_other_settings(run, names, tmp_path, checkpoint, expected):
    """With one name for all, or the best alone, only the last one remains."""
    run(tmp_path, checkpoint=checkpoint)
    assert names(tmp_path) == expected


def test_one_name_in_another_folder(run, names, tmp_path, monkeypatch):
    """A successor of the same name is not deleted."""
    monkeypatch.chdir(tmp_path)
    checkpoint = dict(filename_tmpl='latest.pth', out_dir='./elsewhere')
    run(tmp_path / 'work', epochs=2, save_best=None, checkpoint=checkpoint)
    assert names(tmp_path / 'elsewhere/work') == {'latest.pth'}


class Watch(Hook):
    """Sets the score of each epoch, notes the learning rates, and kills."""

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
def test_validation_counts_once(run, names, tmp_path, scores, by_epoch):
    """The resumed epoch is validated once, whether it is the best or not.

    Its validation saves the best checkpoint and is a step of ReduceOnPlateauLR.
    """
    uninterrupted, killed = tmp_path / 'uninterrupted', tmp_path / 'killed'
    lrs = [], []
    scheduler = dict(type='ReduceOnPlateauLR', monitor='score', rule='greater')
    scheduler['patience'] = 1
    settings = dict(epochs=5, by_epoch=by_epoch, param_scheduler=scheduler)
    run(uninterrupted, hooks=[Watch(scores, lrs[0])], **settings)
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
    assert names(killed) == names(uninterrupted)


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
        (2, dict(val_interval=9), {}, [2]),  # the run was complete
        (4, {}, dict(by_epoch=False), [3, 4, 5]),  # mmengine repeats an epoch
    ],
)
def test_validation_that_is_due(run, tmp_path, epochs, loop, checkpoint, expected):
    """After 2 epochs, validations take place as if there were no interruption."""
    settings = dict(loop=loop, checkpoint=checkpoint, save_best=None)
    run(tmp_path, epochs=2, **settings)
    hook = Validations()
    settings |= dict(resume=True, load_from=latest_checkpoint(tmp_path))
    run(tmp_path, epochs=epochs, hooks=[hook], **settings)
    assert hook.done == expected


def test_early_stop_is_resumed(run, names, tmp_path):
    """A run that has reached its threshold does not continue."""
    stop = dict(
        type='EarlyStoppingHook', monitor='score', rule='greater', stopping_threshold=2
    )
    run(tmp_path, epochs=5, hooks=[stop, Watch([1, 2, 3, 4, 5], [])])
    assert 'epoch_3.pth' in names(tmp_path)
    lrs = []
    resume = dict(resume=True, load_from=str(tmp_path / 'epoch_3.pth'))
    run(tmp_path, epochs=5, hooks=[stop, Watch([1, 2, 3, 4, 5], lrs)], **resume)
    assert lrs == [] and 'epoch_3.pth' in names(tmp_path)


def test_several_best(run, names, tmp_path):
    """Only the best checkpoint of the metric that improved is replaced."""
    run(tmp_path, hooks=[Watch([2, 3, 1], [])], save_best=['score', 'loss'])
    assert names(tmp_path) == {
        'epoch_3.pth',
        'best_score_epoch_2.pth',
        'best_loss_epoch_3.pth',
    }
