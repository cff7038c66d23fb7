"""Configs differ from their baselines as their names say, and follow Table 1."""

import re
from copy import deepcopy
from functools import cache

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from ra_mm.cli import load_config
from reproduction import paper

FILES = sorted(
    str(path.relative_to(paper.CONFIGS)) for path in paper.CONFIGS.rglob('*.py')
)


def load(name):
    """A copy of the config as the tools read it."""
    return deepcopy(_load(name))


@cache
def _load(name):
    return load_config(str(paper.CONFIGS / name))


VARIANTS = {
    name: re.sub('(ra|se|cbam)_', '', name)
    for name in FILES
    if re.search('(ra|se|cbam)_', name) and re.sub('(ra|se|cbam)_', '', name) in FILES
}


def test_variants():
    """All models of Tables 2-4, UperNet, and 200 and 300 epochs of Table 10."""
    assert len(VARIANTS) == 3 * (3 + 3 + 2 + 1) + 4


@pytest.mark.parametrize('name', VARIANTS)
def test_only_the_backbone_differs(name):
    variant, plain = load(name), load(VARIANTS[name])
    ours, theirs = variant.model.pop('backbone'), plain.model.pop('backbone')
    if 'upernet' in name:
        assert (
            plain.model.pop('pretrained')
            == ours.init_cfg.checkpoint
            == 'open-mmlab://resnet50_v1c'
        )
        assert variant.model.pop('pretrained') is None
    else:
        ours.pop('attention', None)
        assert ours.pop('type').startswith('ra_mm.RA' + theirs.pop('type'))
        assert ours == theirs
    assert contents(variant) == contents(plain)


@pytest.mark.parametrize('name', [f for f in FILES if f.startswith('ablation/')])
def test_only_the_ablation_differs(name):
    variant = load(name)
    plain = load(
        re.sub('ablation/(ra_(r18|r50|mobilenetv2_1.0)).*', r'imagenet/\1.py', name)
    )
    if 'no_annealing' in name:
        assert variant.custom_hooks == []
    else:
        assert variant.custom_hooks == plain.custom_hooks
        attention = variant.model.backbone.pop('attention')
        assert attention.pop('type') == 'ra_mm.ReverseAttention'
        assert len(attention) == 1
    assert variant.model == plain.model
    assert contents(variant) == contents(plain)


BEYOND = [row for row in paper.all_rows() if row.is_beyond and not row.variant]


@pytest.mark.parametrize('row', BEYOND, ids=str)
def test_only_the_attention_differs_beyond_the_paper(row):
    """Each row is the plain model of its group, except for the attention."""
    first = next(r for r in BEYOND if r.group == row.group)
    plain, variant = (load(r.config.relative_to(paper.CONFIGS)) for r in (first, row))
    attention = variant.model.backbone.pop('attention', None) or {}
    gate = attention.get('type', 'ra_mm.ReverseAttention')
    is_annealed = gate.endswith(('ReverseAttention', 'StaticGate', 'GatedResidual'))
    if row is not first:
        is_annealed &= 'without annealing' not in row.name
        has_hook = bool(variant.get('custom_hooks'))
        # The paper's rivals inherit from the plain model, which has no hook.
        assert has_hook == (is_annealed and variant.model.backbone.type != 'ResNet')
        variant.model.backbone.type = 'ResNet'
    assert variant.model == plain.model
    assert contents(variant) == contents(plain)


def contents(cfg):
    other = ('custom_hooks', 'work_dir')
    return {k: v for k, v in cfg.to_dict().items() if k not in other}


@pytest.mark.parametrize('name', ['faster_rcnn_ra_r50.py', 'upernet_ra_r50.py'])
def test_ra_starts_as_the_baseline(name, tmp_path):
    """With gamma = 0 the same weights give the same features."""
    plain, variant = (load(n).model.backbone for n in (VARIANTS[name], name))
    init_default_scope('mmseg' if 'upernet' in name else 'mmdet')
    plain.init_cfg = None
    variant.init_cfg = dict(type='Pretrained', checkpoint=f'{tmp_path}/plain.pth')
    plain.norm_cfg.type = variant.norm_cfg.type = 'BN'  # SyncBN needs GPUs
    plain, variant = MODELS.build(plain), MODELS.build(variant)
    for value in plain.state_dict().values():
        if value.ndim == 1:  # of norms
            value.uniform_(0.5, 1)
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    variant.init_weights()
    plain.eval(), variant.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = plain(image), variant(image)
    for a, b in zip(expected, found, strict=True):
        assert a.std() > 0
        torch.testing.assert_close(a, b)


# Learning rate, weight decay, epochs, dropout
TABLE_1 = {
    'r18': (0.1, 0.0001, 100, 0),
    'r50': (0.1, 0.0001, 100, 0.2),
    'r101': (0.1, 0.0001, 100, 0.2),
    'mobilenetv2_0.5': (0.05, 0.00004, 150, 0),
    'mobilenetv2_0.75': (0.05, 0.00004, 150, 0.1),
    'mobilenetv2_1.0': (0.05, 0.00004, 150, 0.2),
}


@pytest.mark.parametrize(
    'name', [name for name in FILES if name.startswith(('imagenet/', 'ablation/'))]
)
def test_table_1(name):
    cfg = load(name)
    model = re.search(r'r\d+|mobilenetv2_\d\.\d+', name)[0]
    lr, weight_decay, epochs, dropout = TABLE_1[model]
    epochs = int((re.search(r'_(\d+)e\.py', name) or [0, epochs])[1])
    optimizer = cfg.optim_wrapper.pop('optimizer')
    optimizer.pop('_scope_')
    assert optimizer == dict(type='SGD', lr=lr, momentum=0.9, weight_decay=weight_decay)
    assert not cfg.optim_wrapper
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_dataloader.batch_size * 2 == 256  # GPUs
    assert cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.model.head.get('dropout_rate', 0) == dropout
    augmentations = [
        step.type
        for step in cfg.train_dataloader.dataset.pipeline
        if 'Random' in step.type
    ]
    assert augmentations == ['RandomResizedCrop', 'RandomFlip']
    schedule = cfg.param_scheduler
    if schedule.type == 'MultiStepLR':
        assert schedule.milestones == [epochs * i // 10 for i in (3, 6, 9)]
    else:
        assert schedule.gamma**epochs == pytest.approx(0.98**300)


def test_starts_from_its_own_backbone():
    """Detectors start from the classifier with the same backbone and attention."""
    for row in paper.rows(4, 5):
        own, start = (
            load(path.relative_to(paper.CONFIGS)).model.backbone
            for path in (row.config, row.start)
        )
        assert own.get('attention') == start.get('attention'), row
        assert (own.type == 'ra_mm.RAResNet') == (start.type == 'ra_mm.RAResNet'), row
        assert own.depth == start.depth == 50, row
