"""TempAnnealingHook in real runs of mmengine's Runner."""

import math

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ra_mm.hooks import TempAnnealingHook
from ra_mm.layers import ReverseAttention

IMAGES, BATCH = 12, 4  # 3 iterations an epoch


class Model(BaseModel):
    def __init__(self, ra=True):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.ra = ReverseAttention(4) if ra else torch.nn.Identity()

    def forward(self, inputs, mode):
        F = self.conv(inputs)
        y = self.ra(F, F) if isinstance(self.ra, ReverseAttention) else F
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Record(Hook):
    """The temp that each iteration really used, and the one in the log."""

    priority = 'LOWEST'

    def __init__(self, stop_at=None):
        self.temps, self.averaged, self.logged = {}, {}, {}
        self.stop_at = stop_at

    def after_train_iter(self, runner, batch_idx, **kwargs):
        i = runner.iter
        self.temps[i] = runner.model.ra.temp.item()
        scalars = runner.message_hub.log_scalars
        if 'train/temp' in scalars:
            self.logged[i] = scalars['train/temp'].current()
        for hook in runner.hooks:
            if hasattr(hook, 'ema_model'):
                self.averaged[i] = hook.ema_model.module.ra.temp.item()
        if i + 1 == self.stop_at:
            raise KeyboardInterrupt


def run(
    tmp_path,
    hook,
    epochs=4,
    by_epoch=True,
    model=None,
    stop_at=None,
    batch=BATCH,
    **kwargs,
):
    sampler = DefaultSampler if by_epoch else InfiniteSampler
    data = dict(inputs=torch.ones(3, 4, 4))
    loop = (
        dict(by_epoch=True, max_epochs=epochs)
        if by_epoch
        else dict(by_epoch=False, max_iters=3 * epochs)
    )
    record = Record(stop_at)
    runner = Runner(
        model=model or Model(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=batch,
            collate_fn=dict(type='default_collate'),
            num_workers=0,
            sampler=dict(type=sampler, shuffle=True),
            dataset=[data] * IMAGES,
        ),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)
        ),
        custom_hooks=[hook, record] + kwargs.pop('hooks', []),
        experiment_name=f'{tmp_path.name}{stop_at}{kwargs.get("resume")}',
        log_level='WARNING',
        **kwargs,
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        pass
    return record, runner


def linear(start=30.0, end=1.0, iters=6, total=12):
    return {i: max(start - (start - end) * i / iters, end) for i in range(total)}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('length', [dict(length=2), dict(length=6, by_epoch=False)])
def test_linear(tmp_path, by_epoch, length):
    """2 epochs are 6 iterations, in both kinds of loop."""
    record, runner = run(tmp_path, TempAnnealingHook(**length), by_epoch=by_epoch)
    assert record.temps == pytest.approx(linear())
    assert record.logged == pytest.approx(linear())
    assert record.temps[0] == 30 and record.temps[6] == 1
    assert runner.model.ra.gamma.all()


def test_defaults_are_the_papers():
    hook = TempAnnealingHook()
    assert (hook.start, hook.end, hook.length, hook.by_epoch) == (30, 1, 10, True)


@pytest.mark.parametrize('stop_at', [4, 7])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resume(tmp_path, by_epoch, stop_at):
    hook = dict(start=20.0, end=2.0, length=3)
    first, _ = run(
        tmp_path, TempAnnealingHook(**hook), by_epoch=by_epoch, stop_at=stop_at
    )
    assert max(first.temps) == stop_at - 1
    second, runner = run(
        tmp_path, TempAnnealingHook(**hook), by_epoch=by_epoch, resume=True
    )
    # Back to the last checkpoint: one an epoch, or one an iteration.
    assert min(second.temps) == (stop_at // 3 * 3 if by_epoch else stop_at)
    assert {**first.temps, **second.temps} == pytest.approx(linear(20.0, 2.0, 9))
    assert max(second.temps) == 11


def test_resume_with_other_batches(tmp_path):
    """Epochs count, however many iterations they have."""
    run(tmp_path, TempAnnealingHook(length=3), stop_at=4)
    record, _ = run(
        tmp_path, TempAnnealingHook(length=3), batch=BATCH // 2, resume=True
    )
    assert list(record.temps.values()) == pytest.approx(
        list(linear(iters=18, total=24).values())[6:]
    )


def test_checkpoint_keeps_its_temp(tmp_path):
    run(tmp_path, TempAnnealingHook(length=3))
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert state['ra.temp'].item() == pytest.approx(linear(iters=9)[2])


@pytest.mark.parametrize('update_buffers', [True, False])
def test_reaches_the_averaged_model(tmp_path, update_buffers):
    record, _ = run(
        tmp_path,
        TempAnnealingHook(length=2),
        hooks=[dict(type='EMAHook', update_buffers=update_buffers)],
    )
    assert record.averaged == pytest.approx(linear())


def test_reaches_a_compiled_model(tmp_path):
    model = Model()
    model.forward = torch.compile(model.forward, backend='eager')
    record, _ = run(tmp_path, TempAnnealingHook(length=2), model=model)
    assert record.temps == pytest.approx(linear())


@pytest.mark.parametrize('trained', [True, False])
def test_trained_weights_are_not_annealed_again(tmp_path, trained):
    model = Model()
    model.ra.gamma.data.fill_(float(trained))
    path = tmp_path / 'source.pth'
    torch.save(model.state_dict(), path)
    kwargs = dict(load_from=str(path))
    expected = linear(total=5) if not trained else dict.fromkeys(range(5), 1.0)
    first, _ = run(tmp_path, TempAnnealingHook(length=2), stop_at=5, **kwargs)
    assert first.temps == pytest.approx(expected)
    second, _ = run(tmp_path, TempAnnealingHook(length=2), resume=True)
    assert second.temps[3] == (1 if trained else pytest.approx(linear()[3]))


def test_start_in_the_middle_of_an_annealing(tmp_path):
    """G goes on from what it was in the weights' own training."""
    model = Model()
    model.ra.gamma.data.fill_(1)
    model.ra.temp.fill_(16)
    kwargs = dict(model=model, stop_at=5)
    first, _ = run(tmp_path, TempAnnealingHook(length=2), **kwargs)
    assert first.temps == pytest.approx(linear(start=16, total=5))
    second, _ = run(tmp_path, TempAnnealingHook(length=2), resume=True)
    assert second.temps[3] == pytest.approx(linear(start=16)[3])


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(start=1.0, end=30.0), 'start=1.0, end=30.0'),
        (dict(end=0.0), 'end=0.0.*start >= end > 0'),
        (dict(start=math.inf), 'start=inf'),
        (dict(length=0), 'length=0: expected a number of epochs'),
        (dict(length=2.5, by_epoch=False), 'length=2.5.*iterations'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TempAnnealingHook(**kwargs)


def test_model_without_ra(tmp_path):
    with pytest.raises(ValueError, match='no ReverseAttention layer'):
        run(tmp_path, TempAnnealingHook(), model=Model(ra=False))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_longer_than_the_training(tmp_path, by_epoch):
    with pytest.raises(ValueError, match='length=5 epochs are 15 iter.*has 12'):
        run(tmp_path, TempAnnealingHook(length=5), by_epoch=by_epoch)


def test_no_annealing_is_never_too_long(tmp_path):
    model = Model()
    model.ra.gamma.data.fill_(1)
    record, _ = run(tmp_path, TempAnnealingHook(length=5), model=model)
    assert set(record.temps.values()) == {1}
