"""TempAnnealingHook in real runs of mmengine's Runner."""

import pytest
import torch
from mmengine.hooks import Hook

from ra_mm.errors import UserError
from ra_mm.hooks import TempAnnealingHook


def linear(start=30.0, end=1.0, iters=6, total=12):
    return {i: max(start - (start - end) * i / iters, end) for i in range(total)}


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('length', [dict(length=2), dict(length=6, by_epoch=False)])
def test_linear(run, by_epoch, length):
    """2 epochs are 6 iterations, in both kinds of loop."""
    record, runner = run(TempAnnealingHook(**length), by_epoch=by_epoch)
    assert record.temps == pytest.approx(linear())
    assert record.logged == pytest.approx(linear())
    assert record.temps[0] == 30 and record.temps[6] == 1
    assert runner.model.ra.gate.gamma.all()


@pytest.mark.parametrize('stop_at', [4, 7])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resume(run, by_epoch, stop_at):
    hook = dict(start=20.0, end=2.0, length=3)
    first, _ = run(TempAnnealingHook(**hook), by_epoch=by_epoch, stop_at=stop_at)
    assert max(first.temps) == stop_at - 1
    second, runner = run(TempAnnealingHook(**hook), by_epoch=by_epoch, resume=True)
    # Back to the last checkpoint: one an epoch, or one an iteration.
    assert min(second.temps) == (stop_at // 3 * 3 if by_epoch else stop_at)
    assert {**first.temps, **second.temps} == pytest.approx(linear(20.0, 2.0, 9))
    assert max(second.temps) == 11


def test_resume_with_other_batches(run):
    """Epochs count, however many iterations they have."""
    run(TempAnnealingHook(length=3), stop_at=4)
    record, _ = run(TempAnnealingHook(length=3), batch=2, resume=True)
    expected = list(linear(iters=18, total=24).values())[6:]
    assert list(record.temps.values()) == pytest.approx(expected)


def test_checkpoint_keeps_its_temp(run, tmp_path):
    run(TempAnnealingHook(length=3))
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert state['ra.gate.temp'].item() == pytest.approx(linear(iters=9)[2])


@pytest.mark.parametrize('update_buffers', [True, False])
def test_reaches_the_averaged_model(run, update_buffers, tmp_path):
    """While it trains, and in its checkpoints."""
    record, _ = run(
        TempAnnealingHook(length=2),
        hooks=[dict(type='EMAHook', update_buffers=update_buffers)],
    )
    assert record.averaged == pytest.approx(linear())
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert state['ra.gate.temp'].item() == pytest.approx(linear()[2])


def test_reaches_a_compiled_model(run, make_model):
    model = make_model()
    model.forward = torch.compile(model.forward, backend='eager')
    record, _ = run(TempAnnealingHook(length=2), model=model)
    assert record.temps == pytest.approx(linear())


@pytest.mark.parametrize('trained', [True, False])
def test_trained_weights_are_not_annealed_again(run, tmp_path, trained, make_model):
    model = make_model()
    model.ra.gate.gamma.data.fill_(float(trained))
    path = tmp_path / 'source.pth'
    torch.save(model.state_dict(), path)
    kwargs = dict(load_from=str(path))
    expected = linear(total=5) if not trained else dict.fromkeys(range(5), 1.0)
    first, _ = run(TempAnnealingHook(length=2), stop_at=5, **kwargs)
    assert first.temps == pytest.approx(expected)
    second, _ = run(TempAnnealingHook(length=2), resume=True)
    assert second.temps[3] == (1 if trained else pytest.approx(linear()[3]))


def test_start_in_the_middle_of_an_annealing(run, make_model):
    """Annealing continues from the temp that the weights were trained with."""
    model = make_model()
    model.ra.gate.gamma.data.fill_(1)
    model.ra.gate.temp.fill_(16)
    first, _ = run(TempAnnealingHook(length=2), model=model, stop_at=5)
    assert first.temps == pytest.approx(linear(start=16, total=5))
    second, _ = run(TempAnnealingHook(length=2), resume=True)
    assert second.temps[3] == pytest.approx(linear(start=16)[3])


@pytest.mark.parametrize(
    'kwargs, message', [(dict(length=0), 'length=0'), (dict(by_epoch=1), 'by_epoch=1')]
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TempAnnealingHook(**kwargs)


@pytest.mark.parametrize('gamma, warned', [(0.0, True), (1.0, False)])
def test_frozen_gates(run, make_model, tmp_path, gamma, warned):
    """Plain blocks that stay plain are worth a warning, trained gates are not."""
    model = make_model()
    model.ra.requires_grad_(False)
    model.ra.gate.gamma.fill_(gamma)
    run(TempAnnealingHook(length=2), model=model, stop_at=3)
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert log.count('1 of 1 gates are frozen') == warned


def test_gates_without_a_learning_rate(run, tmp_path):
    groups = dict(custom_keys=dict(gamma=dict(lr_mult=0)))
    run(TempAnnealingHook(length=2), stop_at=3, wrapper=dict(paramwise_cfg=groups))
    assert '1 of 1 gates are frozen' in max(tmp_path.glob('*/*.log')).read_text()


def test_loop_that_calls_no_hook(run, monkeypatch):
    monkeypatch.delattr(TempAnnealingHook, 'before_train_iter')
    with pytest.warns(UserWarning, match='trains without annealing'):
        run(TempAnnealingHook(length=2))


class Stop(Hook):
    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


def test_training_that_is_stopped_early(run, tmp_path):
    run(TempAnnealingHook(length=2), hooks=[Stop()])
    assert 'within the annealing' in max(tmp_path.glob('*/*.log')).read_text()


def test_teacher(run, make_model, tmp_path):
    """It is frozen, but no gate that should learn."""
    model = make_model()
    model.teacher = make_model().requires_grad_(False)
    record, _ = run(TempAnnealingHook(length=2), model=model, stop_at=3)
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'gates are frozen' not in log
    assert model.teacher.ra.gate.temp == model.ra.gate.temp


def test_model_without_ra(run, make_model):
    with pytest.raises(UserError, match='TempAnnealingHook'):
        run(TempAnnealingHook(), model=make_model(ra=False))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_longer_than_the_training(run, by_epoch):
    with pytest.raises(UserError, match='length=5 epochs.* 15 .* 12'):
        run(TempAnnealingHook(length=5), by_epoch=by_epoch)


def test_no_annealing_is_never_too_long(run, make_model):
    model = make_model()
    model.ra.gate.gamma.data.fill_(1)
    record, _ = run(TempAnnealingHook(length=5), model=model)
    assert set(record.temps.values()) == {1}
