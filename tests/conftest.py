"""Small configs for the drawn shapes, and the tools, run in this process."""

import os

# Before torch is imported, here and in the tools that the tests start: small
# tensors gain nothing from more threads and lose much on a busy machine.
os.environ.setdefault('OMP_NUM_THREADS', '1')
import ra_mm.threads  # noqa: F401  isort: skip

import functools
import importlib.util
import json
import re
import tempfile
from pathlib import Path

import mmengine.config.utils
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from ra_mm.datasets.shapes import write_shapes

REPO = Path(__file__).parents[1]

# mmengine parses all metafiles of a toolbox for each config that inherits from it.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)

DETECTOR = """
_base_ = '{repo}/configs/demo/faster_rcnn_ra_r18.py'
model = dict(
    backbone=dict(stem_channels=8, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64]))
data = '{data}/'
loader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data))
train_dataloader = val_dataloader = test_dataloader = loader
val_evaluator = test_evaluator = dict(ann_file=data + 'annotations/val.json')
train_cfg = dict(max_epochs=1)
randomness = dict(seed=0)
"""

SEGMENTER = """
_base_ = '{repo}/configs/demo/upernet_ra_r18.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
loader = dict(
    batch_size=3,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='{data}'))
train_dataloader = val_dataloader = test_dataloader = loader
train_cfg = dict(max_iters=2, val_interval=2)
custom_hooks = [
    dict(type='ra_mm.TempAnnealingHook', length=1, by_epoch=False)
]
randomness = dict(seed=0)
"""

CLASSIFIER = """
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
model = dict(
    backbone=dict(type='ra_mm.RAResNet', base_channels=8, stem_channels=8),
    head=dict(num_classes=4, in_channels=64, topk=(1, )))
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='{data}/classes',
    pipeline=pipeline)
train_dataloader = dict(
    batch_size=4, num_workers=0, dataset=dict(dataset, data_prefix='train'))
val_dataloader = test_dataloader = dict(
    batch_size=4, num_workers=0, dataset=dict(dataset, data_prefix='val'))
val_evaluator = test_evaluator = dict(topk=(1, ))
train_cfg = dict(max_epochs=1)
randomness = dict(seed=0)
"""


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    """No scope is set, no logger or visualizer writes to an older output.

    Runs that begin in the same second share their logger, those of one
    toolbox their visualizer.
    """
    for manager in (MMLogger, MessageHub, DefaultScope, *Visualizer.__subclasses__()):
        manager._instance_dict.clear()


@pytest.fixture
def use_compiler(monkeypatch):
    """Put another function in the place of torch.compile."""
    torch.compiler.reset()
    return functools.partial(monkeypatch.setattr, torch, 'compile')


@pytest.fixture(scope='session')
def randomise():
    """Gives every weight and statistic, including batch norm's, an effect."""
    return _randomise


@pytest.fixture(scope='session')
def configs(shapes, tmp_path_factory):
    """A folder with detector.py, segmenter.py and classifier.py."""
    folder = tmp_path_factory.mktemp('configs')
    for name, text in (
        ('detector', DETECTOR),
        ('segmenter', SEGMENTER),
        ('classifier', CLASSIFIER),
    ):
        (folder / f'{name}.py').write_text(text.format(repo=REPO, data=shapes))
    return folder


@pytest.fixture
def detector(configs):
    return configs / 'detector.py'


@pytest.fixture(scope='session')
def tool():
    """Call it with the name of a tool for the tool's main()."""
    return _tool


@pytest.fixture
def message(capsys, tmp_path_factory, monkeypatch):
    """Run something that must stop, and return its message.

    Its traceback is in a file.
    """
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path_factory.mktemp('tracebacks')))

    def run(tool, *argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            tool(*argv)
        errors = capsys.readouterr().err
        assert stop.value.code == 1
        assert 'Traceback' not in errors
        found = re.search(r'^tools/\w+\.py: error: (.*)', errors, re.M | re.S)
        assert found, errors
        text, _, path = found[1].strip().partition('\n(traceback in ')
        assert 'Traceback' in Path(path.removesuffix(')')).read_text()
        return text

    return run


@pytest.fixture(scope='session')
def scalars():
    """Call it with a work directory for its log of the training.

    It yields (iteration, temp, loss), an entry an iteration.
    """
    return _scalars


@pytest.fixture
def train(tmp_path):
    return _tool('train', '--work-dir', tmp_path / 'work')


@pytest.fixture
def test(tmp_path):
    return _tool('test', '--work-dir', tmp_path / 'work')


@pytest.fixture(scope='session')
def checkpoint(configs, tmp_path_factory):
    """The checkpoint after one epoch with detector.py."""
    work_dir = tmp_path_factory.mktemp('trained')
    _tool('train', '--work-dir', work_dir)(configs / 'detector.py')
    return work_dir / 'epoch_1.pth'


def _randomise(model):
    g = torch.Generator().manual_seed(0)
    for name, t in model.state_dict().items():
        if name.endswith('running_var'):
            t.uniform_(0.5, 2, generator=g)
        elif t.ndim == 1:
            t.add_(torch.randn(t.shape, generator=g), alpha=0.1)
    return model


def _scalars(work_dir):
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'temp' in entry:
                yield entry['step'] - 1, entry['temp'], entry['loss']


def _tool(name, *flags):
    """The tool's main(), to call with its command line."""
    spec = importlib.util.spec_from_file_location(
        f'tools.{name}', REPO / f'tools/{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *argv: module.main([str(a) for a in (*argv, *flags)])


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A folder of drawn shapes: 16 + 8 images of 64x64, 4 + 2 a class."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(
        folder, num_train=16, num_val=8, image_size=64, classes_train=4, classes_val=2
    )
    return folder
