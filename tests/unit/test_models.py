"""Building models from configs."""

import pytest
from mmdet.models.backbones.csp_darknet import Focus
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from ra_mm.errors import UserError
from ra_mm.models import build_model, count_channels

CONFIG = """
default_scope = 'mmpretrain'
data_preprocessor = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ra_mm.RAResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        norm_cfg=dict(type='SyncBN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64, topk=(1, )))
"""


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / 'a.py').write_text(CONFIG)
    return Config.fromfile(tmp_path / 'a.py')


def test_build(cfg):
    """On one process without a GPU, with the config's preprocessing."""
    before = cfg.to_dict()
    model = build_model(cfg)
    assert model.training
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'
    assert cfg.to_dict() == before


def test_preprocessing_of_the_model_wins(cfg):
    cfg.model.data_preprocessor = dict(mean=[7.0, 7.0, 7.0], std=[1.0, 1.0, 1.0])
    assert build_model(cfg).data_preprocessor.mean.flatten().tolist() == [7, 7, 7]


def test_no_model(cfg):
    cfg.pop('model')
    with pytest.raises(UserError, match='a.py has no model'):
        build_model(cfg)


@pytest.mark.parametrize(
    'options, reason',
    [
        ({'model.backbone.depth': 17}, 'depth 17'),
        ({'model.backbone.attention': dict(type='ra_mm.None')}, 'ra_mm.None'),
        ({'model.head.type': 'NoHead'}, 'NoHead'),
        ({'model.backbone.no_option': 1}, 'no_option'),
    ],
)
def test_wrong_arguments(cfg, options, reason):
    """The cause is kept, for the traceback."""
    cfg.merge_from_dict(options)
    with pytest.raises(UserError, match=f'(?s)a.py.*{reason}') as error:
        build_model(cfg)
    assert error.value.__cause__ is not None


def test_count_channels(cfg):
    assert count_channels(build_model(cfg)) == 3
    cfg.model.backbone.in_channels = 1
    assert count_channels(build_model(cfg)) == 1
    assert count_channels(nn.Linear(2, 2)) == 3
    assert count_channels(Focus(3, 8)) == 3  # of quarters of the image
