"""Mistakes in a config or on the command line end in one message, status 1."""

import pytest
from mmengine.runner import Runner


@pytest.mark.parametrize(
    'option, expected',
    [
        ('model.backbone.depth=51', ['depth', '51']),
        ('custom_hooks.0.type=ra_mm.TempAnealingHook', ['TempAnealingHook']),
        ('custom_hooks.0.start=0.5', ['start', '0.5']),
        ('val_dataloader.dataset.data_prefx.img=a', ["'data_prefx'"]),
        ('val_evaluator.metrc=bbox', ["'metrc'"]),
        ('model.neck=5', ['dict']),
    ],
)
def test_option(message, train, detector, option, expected):
    text = message(train, detector, '--cfg-options', option)
    for name in expected:
        assert name in text


def test_mistakes_of_all_kinds_in_one_message(message, train, detector, tmp_path):
    """Nothing is written before the config is in order."""
    options = ['train_dataloader.dataset.data_prefix.img=none']
    options += ['model.roi_head.bbox_head.num_classes=80']
    text = message(train, detector, '--resume', '--cfg-options', *options)
    for name in ('--work-dir', 'data_prefix.img=PATH', 'bbox_head.num_classes=4'):
        assert name in text
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    'flags', [('--out', '{}/file/a.pkl'), ('--show-dir', '{}/file')]
)
def test_nowhere_to_write(
    message, test, detector, checkpoint, tmp_path, monkeypatch, flags
):
    """The test ends before it has begun, not after."""
    (tmp_path / 'file').touch()
    monkeypatch.setattr(Runner, 'test', None)
    text = message(
        test, detector, checkpoint, *[flag.format(tmp_path) for flag in flags]
    )
    assert flags[0] in text and f'{tmp_path}/file' in text


def test_work_dir_is_a_file(message, train, detector, tmp_path):
    (tmp_path / 'work').touch()
    assert f'{tmp_path}/work' in message(train, detector)


def test_incomplete_config(message, train, tmp_path):
    (tmp_path / 'base.py').write_text('a = 1')
    assert 'base.py' in message(train, tmp_path / 'base.py')


@pytest.mark.parametrize(
    'flag, option', [('--amp', 'optim_wrapper'), ('--auto-scale-lr', 'auto_scale_lr')]
)
def test_flag_needs_a_setting(message, train, detector, flag, option):
    assert option in message(train, detector, flag, '--cfg-options', f'{option}=None')


def test_checkpoint_to_test_in_the_options(message, test, detector, checkpoint):
    assert 'load_from' in message(
        test, detector, checkpoint, '--cfg-options', 'load_from=a.pth'
    )


def test_error_in_a_forward_pass_keeps_its_traceback(train, detector):
    """The channels of the backbone and of the neck do not fit each other."""
    with pytest.raises(RuntimeError, match='channels') as e:
        train(detector, '--cfg-options', 'model.backbone.depth=50')
    assert 'forward' in [entry.name for entry in e.traceback]
