"""Checkpoints that cannot be read, do not fit, or cannot be downloaded."""

import pytest
import torch
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS
from mmpretrain.models import ResNet


@pytest.fixture
def plain_cfg(cfg):
    """The config with a plain backbone, whose weights mmengine loads."""
    cfg.model.backbone.type = 'mmpretrain.ResNet'
    cfg.model.backbone.pop('attention', None)
    return cfg


@pytest.fixture
def weights(plain_cfg, tmp_path):
    """A file with the weights of the plain backbone, and a classifier's."""
    node = dict(plain_cfg.model.backbone, init_cfg=None)
    state_dict = MODELS.build(node).state_dict()
    state_dict['fc.bias'] = torch.ones(10)
    path = tmp_path / 'plain.pth'
    torch.save(dict(state_dict=state_dict), path)
    return path


def init_cfg(path, **kwargs):
    return dict(type='Pretrained', checkpoint=str(path), **kwargs)


def test_unreadable_file(check, cfg, refused):
    path = 'none.pth'
    cfg.load_from = path
    message = refused(cfg, 'train')
    assert path in message and 'load_from' in message
    for message in (refused(cfg, 'test'), refused(cfg, 'train', resume=path)):
        assert path in message and 'load_from' not in message
    assert '--resume' in message
    cfg.load_from = None
    cfg.model.backbone.init_cfg = init_cfg(path)
    message = refused(cfg, 'train')
    assert path in message and 'model.backbone.init_cfg.checkpoint' in message
    check(cfg, 'test')  # which does not initialize weights


def test_file_in_the_older_style(cfg, refused):
    cfg.model.pretrained = 'none.pth'
    assert 'model.pretrained' in refused(cfg)


def test_plain_backbone(check, plain_cfg, weights, refused):
    plain_cfg.model.backbone.init_cfg = init_cfg(weights)
    check(plain_cfg, 'train')
    plain_cfg.model.backbone.base_channels = 16
    message = refused(plain_cfg)
    assert f'{weights} does not fit ResNet' in message
    assert 'prefix' not in message
    assert 'size mismatch' in message and 'layer1.0.conv1' in message
    plain_cfg.model.backbone.base_channels = 8
    plain_cfg.model.backbone.depth = 34
    assert 'missing (layer1.2.conv1.weight' in refused(plain_cfg)


def test_plain_backbone_with_types_that_are_classes(check, plain_cfg, weights, refused):
    plain_cfg.default_scope = None
    plain_cfg.model.backbone.update(type=ResNet, depth=34)
    plain_cfg.model.backbone.init_cfg = dict(init_cfg(weights), type=PretrainedInit)
    assert f'{weights} does not fit ResNet' in refused(plain_cfg)
    plain_cfg.model.backbone.depth = 18
    check(plain_cfg, 'train')


def test_prefix_that_is_missing(check, plain_cfg, weights, refused):
    state_dict = torch.load(weights)['state_dict']
    torch.save({f'backbone.{k}': v for k, v in state_dict.items()}, weights)
    plain_cfg.model.backbone.init_cfg = init_cfg(weights)
    assert "prefix='backbone.'" in refused(plain_cfg)
    plain_cfg.model.backbone.init_cfg.prefix = 'backbone.'
    check(plain_cfg, 'train')


def test_plain_backbone_with_nested_weights(plain_cfg, weights, refused):
    """MMEngine looks for them at the top and in state_dict."""
    torch.save(dict(model=torch.load(weights)['state_dict']), weights)
    plain_cfg.model.backbone.init_cfg = init_cfg(weights)
    assert 'state_dict' in refused(plain_cfg)


def test_plain_backbone_with_weights_of_its_own(load, installed, weights, refused):
    """The checkpoint has no offsets for DCN, as it should be."""
    cfg = load(installed('mmdet', 'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py'))
    cfg.model.backbone.init_cfg.checkpoint = str(weights)
    message = refused(cfg)
    assert 'data/coco/' in message and 'does not fit' not in message


def test_resume(cfg, weights, refused):
    cfg.resume = True
    message = refused(cfg, resume='auto')
    assert '--resume' in message and cfg.work_dir in message
    cfg.load_from = str(weights)
    message = refused(cfg, resume=str(weights))
    assert 'cannot be resumed from' in message
    assert f'--cfg-options load_from={weights}' in message


def test_download_that_fails(cfg, refused, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    url = 'http://127.0.0.1:9/resnet18.pth'
    cfg.model.backbone.init_cfg = init_cfg(url)
    message = refused(cfg)
    assert url in message and 'model.backbone.init_cfg.checkpoint' in message


def test_nothing_is_downloaded_if_something_is_missing(cfg, refused, monkeypatch):
    monkeypatch.setattr(torch.hub, 'download_url_to_file', None)
    cfg.model.backbone.init_cfg = init_cfg('http://127.0.0.1:9/resnet18.pth')
    cfg.train_dataloader.dataset.data_root = 'none'
    assert '127.0.0.1' not in refused(cfg)


def test_name_of_weights_that_is_unknown(cfg, refused):
    cfg.model.backbone.init_cfg = init_cfg('torchvision://resnet19')
    assert 'torchvision://resnet19' in refused(cfg)
