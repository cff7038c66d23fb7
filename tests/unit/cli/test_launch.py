"""Configs with the options of a command line, and their runners."""

import logging

import pytest
from mmengine.config import Config

from ra_mm.cli import build_runner, load_config
from ra_mm.engine.config import get_toolbox, get_value
from ra_mm.errors import UserError


def write(tmp_path, text):
    path = tmp_path / 'config.py'
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    'text, expected',
    [
        ('model = dict(', 'SyntaxError'),
        ('1 / 0', 'ZeroDivisionError'),
        ("_base_ = 'none.py'", 'none.py'),
    ],
)
def test_config_that_cannot_be_read(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=f'{path}.*{expected}'):
        load_config(path)


@pytest.mark.parametrize('name', ['none.py', ''])
def test_no_such_config(tmp_path, name):
    with pytest.raises(UserError, match=str(tmp_path / name)):
        load_config(str(tmp_path / name))


OPTIONS = """
data = '/data'
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data))
custom_hooks = [dict(length=1)]
model = dict(test_cfg=dict(score_thr=0.1))
"""


@pytest.mark.parametrize(
    'option, value',
    [
        ('train_cfg.max_epochs', 3),  # not in this config, but a key of the runner
        ('model.test_cfg.score_thr', 0.5),
        ('custom_hooks.0.length', 2),
        ('train_dataloader.dataset.data_root', '/elsewhere'),
    ],
)
def test_options(tmp_path, option, value):
    cfg = load_config(write(tmp_path, OPTIONS), {option: value})
    assert get_value(cfg, option) == value


@pytest.mark.parametrize(
    'option, expected',
    [
        ('train_dataloder.batch_size', 'train_dataloader'),
        ('data', 'data'),
        ('nothing_like_it', 'nothing_like_it'),
        ('launcher', '--launcher'),
        ('custom_hooks.3.length', '3'),
        ('custom_hooks.0.length.x', 'x'),
    ],
)
def test_option_without_effect(tmp_path, option, expected):
    with pytest.raises(UserError, match=expected):
        load_config(write(tmp_path, OPTIONS), {option: 1})


@pytest.fixture
def logged(monkeypatch):
    """What the command line logs: (text, level)."""
    logged = []
    monkeypatch.setattr(
        'ra_mm.cli.launch.print_log',
        lambda text, logger, level: logged.append((text, level)),
    )
    return logged


@pytest.mark.parametrize(
    'option, similar',
    [
        ('model.test_cfg.score_th', 'score_thr'),
        ('model.tst_cfg.score_thr', 'test_cfg'),
        ('model.tets_cfg.score_thr', 'test_cfg'),
        ('train_dataloader.batchsize', 'batch_size'),
        ('custom_hooks.0.lenght', 'length'),
    ],
)
def test_option_like_another(tmp_path, logged, option, similar):
    """It is merged, since some parts of a config take any key."""
    cfg = load_config(write(tmp_path, OPTIONS), {option: 0.3})
    assert get_value(cfg, option) == 0.3
    ((text, level),) = logged
    assert similar in text and level == logging.WARNING


@pytest.mark.parametrize(
    'text, expected',
    [
        ('lr_config = dict(step=[8])', 'lr_config is of MMDetection 2'),
        ('custom_hook = []', "did you mean 'custom_hooks'"),
        ('data_preprocessor = dict(mean=[1])', 'beside model.data_preprocessor'),
    ],
)
def test_keys_that_nothing_reads(tmp_path, logged, text, expected):
    model = 'model = dict(data_preprocessor=dict(mean=[0]))'
    load_config(write(tmp_path, f'{model}\n{text}'))
    ((warning, _),) = logged
    assert expected in warning


def test_option_that_is_no_mistake(tmp_path, logged):
    """Both are arguments of the heads of mmseg, and pipelines are used by name."""
    text = 'model = dict(decode_head=dict(in_index=3))\ntest_pipeline = []'
    load_config(write(tmp_path, text), {'model.decode_head.ignore_index': 0})
    assert not logged


@pytest.mark.parametrize(
    'flag, text, expected',
    [
        ('given', '', 'given'),
        ('given', "work_dir = 'own'", 'given'),
        (None, "work_dir = 'own'", 'own'),
        (None, '', './work_dirs/config'),
    ],
)
def test_work_dir(tmp_path, flag, text, expected):
    assert load_config(write(tmp_path, text), work_dir=flag).work_dir == expected


PURE_PYTHON = """
from mmpretrain.models import ImageClassifier
default_scope = None
model = dict(type=ImageClassifier)
train_dataloader = dict(batch_size=2)
"""


def test_toolbox_of_a_pure_python_config(tmp_path):
    cfg = load_config(write(tmp_path, PURE_PYTHON))
    assert get_toolbox(cfg) == 'mmpretrain'
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'


def test_unknown_type(tmp_path):
    model = dict(type='ImageClassifier', backbone=dict(type='RAResNt'))
    cfg = dict(model=model, default_scope='mmpretrain')
    cfg = Config(dict(cfg, launcher='none', work_dir=str(tmp_path)))
    with pytest.raises(UserError, match='RAResNt'):
        build_runner(cfg)
