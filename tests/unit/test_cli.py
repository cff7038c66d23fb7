"""Reading configs, and how tools end."""

import logging
import tempfile
from pathlib import Path

import pytest
from mmdet.models import FasterRCNN
from mmengine.config import Config
from torch.utils.data import DataLoader

from ra_mm.cli import build_runner, load_config, report_user_errors
from ra_mm.engine.config import get_toolbox, get_value
from ra_mm.errors import UserError, translate_errors

# Configs and options


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
    'options',
    [
        {'train_cfg.max_epochs': 3},  # not in this config, but a key of the runner
        {'model.test_cfg.score_thr': 0.5},
        {'custom_hooks.0.length': 2},
        {'train_dataloader.dataset.data_root': '/elsewhere'},
    ],
)
def test_options(tmp_path, options):
    cfg = load_config(write(tmp_path, OPTIONS), dict(options))
    for key, value in options.items():
        node = cfg
        for name in key.split('.'):
            node = node[int(name) if name.isdigit() else name]
        assert node == value


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
        'ra_mm.cli.print_log', lambda text, logger, level: logged.append((text, level))
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


def test_option_that_is_no_mistake(tmp_path, logged):
    """Both are arguments of the heads of mmseg."""
    path = write(tmp_path, 'model = dict(decode_head=dict(in_index=3))')
    load_config(path, {'model.decode_head.ignore_index': 0})
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


def test_toolbox_of_a_derived_class():
    class Ours(FasterRCNN):
        pass

    assert get_toolbox(Config(dict(model=dict(type=Ours)))) == 'mmdet'


def test_toolbox():
    assert get_toolbox(Config(dict(default_scope='mmseg'))) == 'mmseg'
    assert get_toolbox(Config(dict(default_scope='mmpose'))) is None
    assert get_toolbox(Config(dict(model=dict(type='ResNet')))) is None


def test_toolbox_of_a_pure_python_config(tmp_path):
    cfg = load_config(
        write(
            tmp_path,
            """
from mmpretrain.models import ImageClassifier
default_scope = None
model = dict(type=ImageClassifier)
train_dataloader = dict(batch_size=2)
""",
        )
    )
    assert get_toolbox(cfg) == 'mmpretrain'
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'


# Building


def test_unknown_type(tmp_path):
    model = dict(type='ImageClassifier', backbone=dict(type='RAResNt'))
    cfg = Config(
        dict(
            model=model,
            default_scope='mmpretrain',
            launcher='none',
            work_dir=str(tmp_path),
        )
    )
    with pytest.raises(UserError, match='RAResNt'):
        build_runner(cfg)


# How tools end


def end(capsys, error, work_dir=None):
    """The status, the message and the file of the traceback."""
    with pytest.raises(SystemExit) as stop, report_user_errors('a_tool') as run:
        run.work_dir = work_dir
        raise error
    text = capsys.readouterr().err.strip()
    message, _, path = text.partition('\n(traceback in ')
    return stop.value.code, message, Path(path.removesuffix(')'))


def test_user_error(capsys, tmp_path):
    error = UserError('bad=1')
    error.__cause__ = ZeroDivisionError('its cause')
    status, message, path = end(capsys, error, str(tmp_path))
    assert status == 1
    assert message == 'a_tool: error: bad=1'
    assert path.parent == tmp_path
    assert 'Traceback' in path.read_text()
    assert 'its cause' in path.read_text()


@pytest.mark.parametrize('work_dir', [None, 'none', 'full'])
def test_no_work_dir(capsys, tmp_path, monkeypatch, work_dir):
    """The folder is not created; the traceback is written elsewhere."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    make = tempfile.NamedTemporaryFile

    def full(*args, dir=None, **kwargs):
        if dir and dir.endswith('full'):
            raise OSError(28, 'No space left on device')
        return make(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, 'NamedTemporaryFile', full)
    folder = work_dir and str(tmp_path / work_dir)
    status, _, path = end(capsys, UserError('bad=1'), folder)
    assert status == 1
    assert path.parent == tmp_path
    assert list(tmp_path.iterdir()) == [path]


def test_nowhere_to_write(capsys, monkeypatch):
    """The message does not depend on it."""

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(tempfile, 'NamedTemporaryFile', full)
    status, message, _ = end(capsys, UserError('bad=1'))
    assert (status, message) == (1, 'a_tool: error: bad=1')


def test_process(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('RANK', '3')
    _, message, _ = end(capsys, UserError('bad=1'), str(tmp_path))
    assert message == 'a_tool (process 3): error: bad=1'


def test_interrupted(capsys):
    assert end(capsys, KeyboardInterrupt())[:2] == (130, 'a_tool: interrupted')


@pytest.mark.parametrize('kind', [SyntaxError, UserError])
@pytest.mark.parametrize('link', ['__context__', '__cause__'])
def test_interrupt_that_a_library_replaces(capsys, kind, link):
    error, middle = kind('cannot be formatted'), RuntimeError()
    setattr(error, link, middle)
    setattr(middle, link, KeyboardInterrupt())
    assert end(capsys, error)[:2] == (130, 'a_tool: interrupted')


def test_circular_chain_of_a_bug():
    error, cause = ValueError('a bug'), ValueError('its cause')
    error.__cause__, cause.__cause__ = cause, error
    with pytest.raises(ValueError, match='a bug'), report_user_errors('a_tool'):
        raise error


def test_interrupted_while_a_config_is_formatted(capsys, monkeypatch):
    """mmengine formats it for each checkpoint, and replaces the exception."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
        monkeypatch.setattr(f'{module}.FormatCode', interrupt, raising=False)
    with pytest.raises(SystemExit) as stop, report_user_errors('a_tool'):
        Config(dict(a=1)).pretty_text  # noqa: B018
    assert stop.value.code == 130
    assert capsys.readouterr().err == 'a_tool: interrupted\n'


@pytest.mark.parametrize(
    'error', [ValueError('a bug'), KeyError('a bug'), RuntimeError('a bug')], ids=repr
)
def test_bugs_propagate(error):
    with pytest.raises(type(error)) as e, report_user_errors('a_tool'):
        raise error
    assert e.value is error


class Broken:
    def __len__(self):
        return 1

    def __getitem__(self, i):
        with translate_errors('a.png cannot be loaded'):
            raise ValueError('it is empty')


def test_error_in_a_worker(capsys, tmp_path):
    """The message is the one of the worker, without its traceback."""
    with pytest.raises(UserError) as e:
        next(iter(DataLoader(Broken(), num_workers=1)))
    _, message, path = end(capsys, e.value, str(tmp_path))
    assert message == 'a_tool: error: a.png cannot be loaded: it is empty'
    assert '__getitem__' in path.read_text()
