"""Checkpoints that a tool must refuse, wherever they are named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).parents[2]
TRACE = 'code-was-run'
KEY = 'backbone.conv1.weight'


class Code:
    """Unpickled, it leaves its trace."""

    def __reduce__(self):
        return os.system, (f'touch {TRACE}',)


@pytest.fixture(scope='module')
def trained(configs, tool, tmp_path_factory):
    """The checkpoint after one epoch with classifier.py."""
    work_dir = tmp_path_factory.mktemp('classifier')
    tool('train', '--work-dir', work_dir)(configs / 'classifier.py')
    return work_dir / 'epoch_1.pth'


@pytest.fixture
def saved(trained):
    return torch.load(trained, weights_only=False)


def diverge(saved):
    saved['state_dict'][KEY].fill_(torch.nan)


@pytest.mark.parametrize(
    'spoil, expected',
    [
        (lambda saved: saved.update(x=Code()), 'posix.system'),
        (diverge, KEY),
        (lambda saved: saved.update(state_dict=None), 'bad.pth'),
    ],
)
@pytest.mark.parametrize(
    'name, argv',
    [
        ('train', ['--resume', 'bad.pth']),
        ('train', ['--cfg-options', 'load_from=bad.pth']),
        (
            'train',
            [
                '--cfg-options',
                'model.backbone.init_cfg.type=Pretrained',
                'model.backbone.init_cfg.checkpoint=bad.pth',
            ],
        ),
        ('test', ['bad.pth']),
        ('export_onnx', ['bad.pth', '--out', 'a.onnx']),
        ('visualize_gates', ['bad.pth', '.']),
    ],
)
def test_tools(
    message, tool, configs, saved, tmp_path, monkeypatch, name, argv, spoil, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'star').mkdir()
    (tmp_path / 'star/a.jpg').write_bytes(b'')
    spoil(saved)
    torch.save(saved, 'bad.pth')
    text = message(tool(name), configs / 'classifier.py', *argv)
    assert 'bad.pth' in text and expected in text
    for option in ('load_from', '--resume'):  # it names what was typed
        assert (option in text) == (option in ' '.join(argv))
    assert not Path(TRACE).exists()


def test_in_a_process_of_its_own(configs, tmp_path):
    torch.save(dict(state_dict=Code()), tmp_path / 'bad.pth')
    done = subprocess.run(
        [sys.executable, REPO / 'tools/test.py', configs / 'classifier.py', 'bad.pth'],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stdout + done.stderr
    assert 'bad.pth' in done.stderr
    assert not (tmp_path / TRACE).exists()


# Checkpoints of other models


@pytest.fixture
def plain(saved, tmp_path):
    """A checkpoint of the plain model, without RA."""
    weights = {k: v for k, v in saved['state_dict'].items() if '.attention.' not in k}
    torch.save(dict(state_dict=weights), tmp_path / 'plain.pth')
    return tmp_path / 'plain.pth'


@pytest.mark.parametrize(
    'option, expected',
    [
        ('model.backbone.depth=34', 'backbone.layer1.2.'),
        ('model.backbone.type=mmpretrain.ResNet', '.attention.'),
        ('model.backbone.stem_channels=16', 'backbone.conv1.weight'),
    ],
)
def test_checkpoint_of_another_model(
    message, test, configs, trained, tmp_path, option, expected
):
    text = message(
        test,
        configs / 'classifier.py',
        trained,
        '--cfg-options',
        option,
        f'experiment_name={tmp_path.name}',
    )
    assert expected in text


@pytest.mark.parametrize(
    'argv',
    [
        ['--resume', '{}', '--cfg-options'],
        ['--cfg-options', 'load_from={}'],
        [
            '--cfg-options',
            'model.backbone.init_cfg.type=Pretrained',
            'model.backbone.init_cfg.checkpoint={}',
        ],
    ],
)
def test_train_from_another_depth(message, train, configs, trained, argv):
    argv = [text.format(trained) for text in argv]
    text = message(train, configs / 'classifier.py', *argv, 'model.backbone.depth=34')
    assert 'layer1.2.' in text


def test_plain_checkpoint_to_test(message, test, configs, plain, capsys):
    """It can be tested with RA, but not with another attention."""
    config = configs / 'classifier.py'
    assert 'accuracy/top1' in test(config, plain)
    assert 'no reverse attention' in ''.join(capsys.readouterr())
    assert '.attention.' in message(
        test, config, plain, '--cfg-options', 'model.backbone.attention.type=ra_mm.SE'
    )


def test_plain_checkpoint_to_resume(message, train, configs, saved, plain):
    weights = torch.load(plain)['state_dict']
    torch.save(dict(saved, state_dict=weights), plain)
    assert '.attention.' in message(train, configs / 'classifier.py', '--resume', plain)


def test_weights_alone_to_resume(message, train, configs, plain):
    assert str(plain) in message(train, configs / 'classifier.py', '--resume', plain)


def test_no_checkpoint_to_resume(message, train, configs, tmp_path):
    assert f'{tmp_path}/work' in message(train, configs / 'classifier.py', '--resume')


def test_plain_checkpoint_to_train_from(train, detector, checkpoint, tmp_path):
    """The backbone must fit, but the attention may be missing and heads may be new."""
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    weights = {k: v for k, v in weights.items() if '.attention.' not in k}
    torch.save(dict(state_dict=weights), tmp_path / 'plain.pth')
    train(
        detector,
        '--cfg-options',
        f'load_from={tmp_path}/plain.pth',
        'model.rpn_head.feat_channels=32',
    )
    assert (tmp_path / 'work/epoch_1.pth').exists()
