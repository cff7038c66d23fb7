"""Spoilt checkpoints: one message, no code run, wherever they are named."""

import builtins
import copy
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from ra_mm.cli import report_user_errors
from ra_mm.engine.checkpoint_io import read_checkpoint, read_state_dict
from ra_mm.preflight import check

REPO = Path(__file__).parents[2]
nan, inf = torch.nan, torch.inf
TRACE = 'code-was-run'  # a file that code in a checkpoint would leave


@pytest.fixture(scope='session')
def trained(configs, tool, tmp_path_factory):
    """The bytes of what one epoch with classifier.py leaves."""
    work_dir = tmp_path_factory.mktemp('classifier')
    tool('train', '--work-dir', work_dir)(configs / 'classifier.py')
    return (work_dir / 'epoch_1.pth').read_bytes()


@pytest.fixture
def saved(trained):
    return torch.load(io.BytesIO(trained), weights_only=False)


@pytest.fixture(scope='module')
def whole_config(configs):
    cfg = Config.fromfile(configs / 'classifier.py')
    cfg.merge_from_dict(dict(launcher='none', work_dir='unused'))
    return cfg


@pytest.fixture
def looked_at(whole_config, tmp_path, monkeypatch):
    """Let the preflight look at a checkpoint, to load it in one way."""
    monkeypatch.chdir(tmp_path)  # where code would leave its trace

    def look(content, way='test'):
        path = tmp_path / 'bad.pth'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        cfg = copy.deepcopy(whole_config)
        if way == 'init_cfg':
            cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
        else:
            cfg.load_from = str(path)
            cfg.resume = way == 'resume'
        with report_user_errors('tools/train.py'):
            check(cfg, 'test' if way == 'test' else 'train')

    return look


WAYS = ['test', 'load_from', 'resume', 'init_cfg']

# Files

TRUNCATED = [
    0,
    1,
    2,
    10,
    100,
    1000,
    10000,
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.99,
    -10000,
    -1000,
    -100,
    -22,
    -10,
    -1,
]


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as z:
        for name, content in members.items():
            z.writestr(name, content)
    return file.getvalue()


FILES = [
    ('text', b'no weights in here'),
    ('page', b'<!DOCTYPE html><html>404 Not Found</html>'),
    ('zeros', bytes(10**4)),
    ('ones', b'\xff' * 10**4),
    ('LFS pointer', b'version https://git-lfs.github.com/spec/v1\nsize 1'),
    ('JSON', b'{"state_dict": {}}'),
    ('PNG', b'\x89PNG\r\n\x1a\n' + bytes(100)),
    ('gzip', b'\x1f\x8b\x08' + bytes(100)),
    ('numpy', b'\x93NUMPY\x01\x00v\x00' + bytes(100)),
    ('empty zip', zipped()),
    ('zip of a text', zipped(readme='hello')),
    ('zip of rubbish', zipped(**{'archive/data.pkl': b'rubbish'})),
    ('zip of an empty pickle', zipped(**{'archive/data.pkl': b''})),
    ('zip of a pickle', zipped(**{'archive/data.pkl': pickle.dumps({})})),
    ('pickled dict', pickle.dumps({'state_dict': {}}, 4)),
    ('half a pickle', pickle.dumps(list(range(100)))[:50]),
]

# Pickled objects that run code when they are unpickled


class Runs:
    """Unpickled, it calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Ours:
    """Unpickled, it leaves its trace."""

    def __init__(self):
        self.a = 1

    def __setstate__(self, state):
        Path(TRACE).touch()


CODE = [
    ('os.system', Runs(os.system, f'touch {TRACE}')),
    ('os.mkdir', Runs(os.mkdir, TRACE)),
    ('eval', Runs(builtins.eval, f'open({TRACE!r}, "w")')),
    ('exec', Runs(builtins.exec, f'open({TRACE!r}, "w")')),
    ('open', Runs(builtins.open, TRACE, 'w')),
    ('Popen', Runs(subprocess.Popen, ['touch', TRACE])),
    ('check_call', Runs(subprocess.check_call, ['touch', TRACE])),
    ('Path.touch', Runs(Path.touch, Path(TRACE))),
    ('numpy.save', Runs(np.save, TRACE, 1)),
    ('torch.save', Runs(torch.save, 1, TRACE)),
    ('a class', Ours()),
]
PLACES = dict(
    alone=lambda saved, code: code,
    weight=lambda saved, code: saved['state_dict'].update(x=code),
    key=lambda saved, code: saved.update({'meta': {'x': [code]}}),
    optimizer=lambda saved, code: saved.update(optimizer=code),
    hub=lambda saved, code: saved['message_hub'].update(x=code),
)
CODE_IN = [(name, code, place) for name, code in CODE for place in PLACES]

# What a file may hold instead of weights

TENSOR = torch.ones(2)
HOLDS = [
    (None, 'holds a NoneType'),
    (5, 'holds a int'),
    ('abc', 'holds a str'),
    (nan, 'holds a float'),
    (True, 'holds a bool'),
    ([1], 'holds a list'),
    ([TENSOR], 'holds a list'),
    ((1,), 'holds a tuple'),
    ({1, 2}, 'holds '),
    (TENSOR, 'holds a Tensor'),
    (np.ones(2), 'holds a ndarray'),
    *(
        (weights, 'holds no weights')
        for weights in (
            {},
            {1: TENSOR},
            {'a': 1},
            {'a': None},
            {'a': 'b'},
            {'a': [TENSOR]},
            {'a': {'b': TENSOR}},
            {'a': np.ones(2)},
            {None: TENSOR},
            {'a': TENSOR, 'iteration': 3},
            {'model': {'a': TENSOR}},
        )
    ),
    *(
        ({'state_dict': weights}, 'holds no weights')
        for weights in (
            None,
            5,
            'abc',
            [1],
            [TENSOR],
            TENSOR,
            {},
            {1: TENSOR},
            {'a': 1},
            {'a': None},
            {'a': [TENSOR]},
            {'a': {'b': TENSOR}},
            {('a',): TENSOR},
            {'a': TENSOR, 'b': 'c'},
        )
    ),
]

# Weights that a run has left which diverged

KEYS = [
    'backbone.conv1.weight',
    'backbone.bn1.running_var',
    'backbone.bn1.running_mean',
    'backbone.layer1.0.attention.gamma',
    'backbone.layer4.1.attention.temp',
    'head.fc.weight',
    'head.fc.bias',
]
DIVERGED = [(key, value) for key in KEYS for value in (nan, inf, -inf)]
LACKING = ['meta', 'message_hub', 'optimizer']


@pytest.mark.parametrize('way', WAYS)
def test_nothing_is_wrong_with_the_checkpoint_above(looked_at, trained, way):
    looked_at(trained, way)


@pytest.mark.parametrize('length', TRUNCATED)
def test_truncated(message, looked_at, trained, length):
    end = int(length * len(trained)) if isinstance(length, float) else length
    text = message(looked_at, trained[:end])
    assert 'bad.pth is truncated' in text or (
        end == 1 and 'bad.pth is not a PyTorch checkpoint' in text
    )


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('_, content', FILES, ids=[f for f, _ in FILES])
def test_file(message, looked_at, _, content, way):
    text = message(looked_at, content, way)
    assert 'bad.pth is ' in text or 'bad.pth holds ' in text
    assert '\n' not in text.strip()


@pytest.mark.parametrize(
    'name, code, place', CODE_IN, ids=[f'{n}-{p}' for n, _, p in CODE_IN]
)
def test_code_is_not_run(message, looked_at, saved, tmp_path, name, code, place):
    content = PLACES[place](saved, code) or saved
    for way in ('test', 'resume'):
        assert 'bad.pth holds more than weights, code maybe' in message(
            looked_at, content, way
        )
    path = tmp_path / 'bad.pth'
    for read in (read_checkpoint, read_state_dict):
        with pytest.raises(ValueError, match='holds more than weights'):
            read(str(path))
    path.write_bytes(pickle.dumps(code))  # as such, and of old torch's format
    message(looked_at, path.read_bytes())
    torch.save(code, path, _use_new_zipfile_serialization=False)
    message(looked_at, path.read_bytes())
    assert not (tmp_path / TRACE).exists()
    assert not (tmp_path / f'{TRACE}.npy').exists()


@pytest.mark.parametrize(
    'code', [code for _, code in CODE], ids=[name for name, _ in CODE]
)
def test_downloaded_code_is_not_run(message, whole_config, tmp_path, monkeypatch, code):
    """mmengine would run what it has downloaded earlier."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub/checkpoints'
    folder.mkdir(parents=True)
    torch.save(dict(state_dict=code), folder / 'bad.pth')
    url = 'http://127.0.0.1:9/bad.pth'
    with pytest.raises(ValueError, match='holds more than weights'):
        read_state_dict(url)
    monkeypatch.chdir(tmp_path)
    cfg = copy.deepcopy(whole_config)
    cfg.load_from = url

    def look():
        with report_user_errors('tools/test.py'):
            check(cfg, 'test')

    assert 'holds more than weights' in message(look)
    assert not (tmp_path / TRACE).exists()


def test_the_code_above_would_run(tmp_path, monkeypatch):
    for name, code in CODE:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        result = pickle.loads(pickle.dumps(code))
        if name == 'Popen':
            result.wait()
        assert list(folder.iterdir()), name


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'content, expected', HOLDS, ids=[str(c)[:30] for c, _ in HOLDS]
)
def test_no_weights(message, looked_at, content, expected, way):
    assert f'bad.pth {expected}' in message(looked_at, content, way)


@pytest.mark.parametrize('key, value', DIVERGED)
def test_diverged(message, looked_at, saved, key, value):
    saved['state_dict'][key].view(-1)[-1] = value
    for way in WAYS:
        text = message(looked_at, saved, way)
        assert f'bad.pth: {key} is not finite' in text
        assert 'give a checkpoint from before that' in text


@pytest.mark.parametrize('key', LACKING)
def test_not_to_resume_from(message, looked_at, saved, key):
    del saved[key]
    assert 'cannot be resumed from' in message(looked_at, saved, 'resume')
    looked_at(saved, 'load_from')


def test_folder(message, tmp_path, configs, test):
    assert ': a folder, name a file in it' in message(
        test, configs / 'classifier.py', tmp_path
    )


# Weights of other models, loaded by the tools


def without(*ends):
    return lambda w: {k: v for k, v in w.items() if not k.endswith(ends)}


def resized(key, *size):
    return lambda w: {**w, key: torch.zeros(size)}


def renamed(prefix):
    return lambda w: {prefix + k: v for k, v in w.items()}


OTHER = [
    ('no first convolution', without('backbone.conv1.weight')),
    ('no last layer', without('layer4.1.conv2.weight')),
    ('no head', without('fc.weight', 'fc.bias')),
    ('no means', without('running_mean')),
    ('no gamma in one block', without('layer1.0.attention.gamma')),
    ('a block too many', resized('backbone.layer4.2.conv1.weight', 8)),
    ('one key too many', resized('backbone.x', 8)),
    ('wider stem', resized('backbone.conv1.weight', 64, 3, 7, 7)),
    ('scalar', resized('backbone.bn1.weight')),
    ('gamma of a plane', resized('backbone.layer1.0.attention.gamma', 8, 1)),
    ('other classes', resized('head.fc.weight', 1000, 64)),
    ('a prefix', renamed('model.')),
    ('two prefixes', renamed('module.module.')),
    (
        'the backbone alone',
        lambda w: {k[9:]: v for k, v in w.items() if k[:9] == 'backbone.'},
    ),
    ('nothing of the model', lambda w: {'a': TENSOR}),
    (
        'SE',
        lambda w: {k.replace('gamma', 'conv1.conv.weight'): v for k, v in w.items()},
    ),
]


@pytest.mark.parametrize('_, change', OTHER, ids=[name for name, _ in OTHER])
def test_of_another_model(message, test, configs, saved, tmp_path, _, change):
    weights = change(saved['state_dict'])
    torch.save(dict(state_dict=weights), tmp_path / 'bad.pth')
    assert 'the checkpoint does not fit the model' in message(
        test,
        configs / 'classifier.py',
        tmp_path / 'bad.pth',
        '--cfg-options',
        f'experiment_name={tmp_path.name}',
    )  # a logger of its own


TOOLS = [
    ('train', ['--resume', 'bad.pth', '--cfg-options', 'resume=True']),
    ('test', ['bad.pth']),
    ('export_onnx', ['bad.pth', '--out', 'a.onnx']),
    ('visualize_gates', ['bad.pth', '.']),
]


@pytest.mark.parametrize('name, argv', TOOLS, ids=[name for name, _ in TOOLS])
def test_tools(message, tool, configs, saved, tmp_path, monkeypatch, name, argv):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'star').mkdir()
    (tmp_path / 'star/a.jpg').write_bytes(b'')
    diverged = copy.deepcopy(saved)
    diverged['state_dict'][KEYS[0]].fill_(nan)
    for content, expected in (
        (CODE[0][1], 'holds more than weights'),
        (diverged, f'{KEYS[0]} is not finite'),
        (TENSOR, 'holds a Tensor'),
    ):
        torch.save(content, 'bad.pth')
        assert f'bad.pth {expected}' in message(
            tool(name), configs / 'classifier.py', *argv
        ).replace('bad.pth: ', 'bad.pth ')
    assert not Path(TRACE).exists()


def test_in_a_process_of_its_own(configs, tmp_path):
    torch.save(dict(state_dict=CODE[0][1]), tmp_path / 'bad.pth')
    done = subprocess.run(
        [sys.executable, REPO / 'tools/test.py', configs / 'classifier.py', 'bad.pth'],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    assert 'bad.pth holds more than weights' in done.stderr
    assert not (tmp_path / TRACE).exists()
