"""model-index.yml, which OpenMIM reads, agrees with the configs."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from reproduction import paper

load = pytest.importorskip('modelindex.load_model_index').load

REPO = paper.CONFIGS.parent
INDEX = load(str(REPO / 'model-index.yml'))
CONFIGS = sorted(
    str(path.relative_to(REPO))
    for path in paper.CONFIGS.rglob('*.py')
    if path.parent.name != '_base_'
)
FAMILIES = {
    'ra_mm.ReverseAttention': 'RA-Net',
    'ra_mm.SE': 'SENet',
    'ra_mm.CBAM': 'CBAM',
    'ra_mm.ECA': 'ECA-Net',
    'ra_mm.SimAM': 'SimAM',
    'ra_mm.GRN': 'ConvNeXt V2',
    'ra_mm.StaticGate': 'RA-Net',
    'ra_mm.GatedResidual': 'RA-Net',
}
TRAINING_DATA = {
    'coco': 'COCO',
    'ade': 'ADE20K',
    'bccd': 'BCCD',
    'imagenet': 'ImageNet-1k',
    'shapes': 'drawn shapes',
}


def test_accepted_by_modelindex():
    assert INDEX.check(silent=True) == []


def test_every_config_once():
    assert sorted(model.config for model in INDEX.models) == CONFIGS
    for model in INDEX.models:
        assert model.name == Path(model.config).stem
    assert len({model.name for model in INDEX.models}) == len(CONFIGS)


def test_no_weights_or_results_are_claimed():
    for model in INDEX.models:
        assert model.data.keys() == {'Name', 'In Collection', 'Config', 'Metadata'}


@pytest.mark.parametrize('name', CONFIGS)
def test_agrees_with_the_config(name, monkeypatch):
    # Parameters are only counted; drawing them would take longer than all the rest.
    monkeypatch.setattr(torch.nn.init, 'kaiming_uniform_', lambda weight, **_: weight)
    (model,) = (model for model in INDEX.models if model.config == name)
    cfg = Config.fromfile(REPO / name)
    backbone = cfg.model.backbone
    if backbone.type.startswith('ra_mm.'):
        attention = backbone.get('attention', {})
        family = FAMILIES[attention.get('type', 'ra_mm.ReverseAttention')]
    else:
        family = re.match('ResNet|MobileNetV2', backbone.type)[0]
    assert model.in_collection == family

    metadata = dict(model.metadata.data)
    folders = Path(cfg.train_dataloader.dataset.data_root).parts
    (data,) = (TRAINING_DATA[f] for f in folders if f in TRAINING_DATA)
    assert metadata.pop('Training Data') == data
    units = {'Epochs': 'max_epochs', 'Iterations': 'max_iters'}
    length = {
        key: cfg.train_cfg[unit] for key, unit in units.items() if unit in cfg.train_cfg
    }
    assert metadata == {
        **length,
        'Batch Size': cfg.auto_scale_lr.base_batch_size,
        'Parameters': count_params(cfg),
    }


def count_params(cfg):
    init_default_scope(cfg.default_scope)
    return sum(p.numel() for p in MODELS.build(cfg.model).parameters())
