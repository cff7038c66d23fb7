"""model-index.yml is what OpenMIM reads, and says what the configs say."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ra_mm.reproduce import paper

load = pytest.importorskip('modelindex.load_model_index').load

REPO = paper.CONFIGS.parent
INDEX = load(str(REPO / 'model-index.yml'))
CONFIGS = sorted(
    str(path.relative_to(REPO))
    for path in paper.CONFIGS.rglob('*.py')
    if path.parent.name not in ('_base_', 'scale')
)  # no whole configs


def test_accepted_by_its_checker():
    assert INDEX.check(silent=True) == []


def test_every_config_once():
    assert sorted(model.config for model in INDEX.models) == CONFIGS
    for model in INDEX.models:
        assert model.name == Path(model.config).stem
    assert len({model.name for model in INDEX.models}) == len(CONFIGS)


def test_nothing_that_does_not_exist():
    for model in INDEX.models:
        assert model.data.keys() == {'Name', 'In Collection', 'Config', 'Metadata'}


FAMILIES = {
    'ra_mm.ReverseAttention': 'RA-Net',
    'ra_mm.SE': 'SENet',
    'ra_mm.CBAM': 'CBAM',
}


@pytest.mark.parametrize('name', CONFIGS)
def test_says_what_the_config_says(name):
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
    assert metadata.pop('Training Data') == training_data(cfg)
    units = dict(Epochs='max_epochs', Iterations='max_iters')
    length = {
        key: cfg.train_cfg[unit] for key, unit in units.items() if unit in cfg.train_cfg
    }
    assert metadata == dict(
        length,
        **{
            'Batch Size': cfg.auto_scale_lr.base_batch_size,
            'Parameters': count_params(cfg),
        },
    )


def training_data(cfg):
    root = cfg.train_dataloader.dataset.data_root
    for folder, name in (
        ('coco', 'COCO'),
        ('ade', 'ADE20K'),
        ('bccd', 'BCCD'),
        ('imagenet', 'ImageNet-1k'),
        ('shapes', 'drawn shapes'),
    ):
        if folder in root.split('/'):
            return name
    raise AssertionError(root)


def count_params(cfg):
    init_default_scope(cfg.default_scope)
    return sum(p.numel() for p in MODELS.build(cfg.model).parameters())
