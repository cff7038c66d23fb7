"""Models with random gates and their checkpoints."""

import pytest
import torch
from mmengine.config import Config

from ra_mm.layers import ReverseAttention
from ra_mm.models import build_model


@pytest.fixture(scope='session')
def saved_models(configs, randomise, tmp_path_factory):
    """Models with random gamma and temp = 2.5, and checkpoints, by config."""
    folder, models = tmp_path_factory.mktemp('saved_models'), {}
    for name in ('classifier', 'detector', 'segmenter'):
        torch.manual_seed(0)
        model = randomise(build_model(Config.fromfile(configs / f'{name}.py')).eval())
        for layer in model.modules():
            if isinstance(layer, ReverseAttention):
                layer.gate.gamma.data.normal_()
                layer.gate.temp.fill_(2.5)
        models[name] = model, folder / f'{name}.pth'
        torch.save(dict(state_dict=model.state_dict()), models[name][1])
    return models


@pytest.fixture(scope='session')
def images(shapes):
    """A folder with one folder of images per class."""
    return shapes / 'classes/val'
