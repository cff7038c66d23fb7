"""One path for all trainings; models with random gates and their checkpoints."""

import pytest
import torch
from mmengine.config import Config

from ra_mm.layers import ReverseAttention, force_path
from ra_mm.models import build_model

MOBILENET = """
_base_ = '{configs}/classifier.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ra_mm.RAMobileNetV2', widen_factor=0.5),
    head=dict(in_channels=1280))
"""


def _build(config):
    """The model of a config with random gamma, and temp = 2.5."""
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config)).eval()
    for layer in model.modules():
        if isinstance(layer, ReverseAttention):
            layer.gate.gamma.data.normal_()
            layer.gate.temp.fill_(2.5)
    return model


@pytest.fixture(scope='session')
def saved_models(configs, tmp_path_factory):
    """Models and their checkpoints, by the name of the config."""
    folder = tmp_path_factory.mktemp('saved_models')
    (configs / 'mobilenet.py').write_text(MOBILENET.format(configs=configs))
    models = {}
    for name in ('classifier', 'detector', 'segmenter', 'mobilenet'):
        models[name] = _build(configs / f'{name}.py'), folder / f'{name}.pth'
        model, path = models[name]
        torch.save(dict(state_dict=model.state_dict()), path)
    return models


@pytest.fixture(scope='session')
def images(shapes):
    """A folder with one folder of images per class."""
    return shapes / 'classes/val'


@pytest.fixture(autouse=True)
def one_path(monkeypatch):
    """Train on one path of the tails, so that runs are equal to the bit."""
    monkeypatch.setenv('RA_MM_TAIL', 'fused')  # for the processes of a test
    with force_path('fused'):
        yield
