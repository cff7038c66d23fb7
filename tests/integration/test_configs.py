"""Every config file trains and validates, and says what it claims to say."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from copy import deepcopy
from decimal import Decimal
from functools import cache
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope

from ra_mm.cli import build_runner, load_config
from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.preflight import check
from ra_mm.reproduce import paper

FILES = sorted(
    str(path.relative_to(paper.CONFIGS)) for path in paper.CONFIGS.rglob('*.py')
)
SIDE = 64  # of all images, in pixels


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Steps so small gain nothing by a second, and lose on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def root(shapes, tmp_path_factory):
    """A folder with data/ as the configs expect it, of two images a split."""
    from mmdet.datasets import CocoDataset

    data = tmp_path_factory.mktemp('root') / 'data'
    write_coco(
        shapes,
        CocoDataset.METAINFO['classes'],
        {
            split: (
                data / f'coco/annotations/instances_{split}2017.json',
                data / f'coco/{split}2017',
            )
            for split in ('train', 'val')
        },
    )
    write_coco(
        shapes,
        ('RBC', 'WBC', 'Platelets'),
        {
            split: (data / f'bccd/annotations/{split}.json', data / 'bccd/images')
            for split in ('train', 'val')
        },
    )
    ade = data / 'ade/ADEChallengeData2016'
    for split, name in (('train', 'training'), ('val', 'validation')):
        for number in ('000000', '000001'):
            copy(
                shapes / f'images/{split}/{number}.jpg',
                ade / f'images/{name}/{number}.jpg',
            )
            copy(
                shapes / f'masks/{split}/{number}.png',
                ade / f'annotations/{name}/{number}.png',
            )
    for split in ('train', 'val'):
        for name in ('circle', 'star'):
            copy(
                shapes / f'classes/{split}/{name}/0000.jpg',
                data / f'imagenet/{split}/{name}.jpg',
            )
        (data / 'imagenet/meta').mkdir(exist_ok=True)
        (data / f'imagenet/meta/{split}.txt').write_text('circle.jpg 0\nstar.jpg 999\n')
    (data / 'shapes').symlink_to(shapes)
    return data.parent


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def write_coco(shapes, classes, targets):
    """Two images a split, the shapes' classes renamed to the first ones."""
    for split, (ann_file, folder) in targets.items():
        coco = json.loads((shapes / f'annotations/{split}.json').read_text())
        coco['images'] = coco['images'][:2]
        for image in coco['images']:
            name = f'{split}_{image["file_name"]}'
            copy(shapes / f'images/{split}' / image['file_name'], folder / name)
            image['file_name'] = name
        coco['annotations'] = [
            dict(a, category_id=1 + a['category_id'] % len(classes[:4]))
            for a in coco['annotations']
            if a['image_id'] < 3
        ]
        coco['categories'] = [
            dict(id=i, name=name) for i, name in enumerate(classes, 1)
        ]
        ann_file.parent.mkdir(parents=True, exist_ok=True)
        ann_file.write_text(json.dumps(coco))


def load(name):
    """The config as the tools read it, to be changed at will."""
    return deepcopy(_load(name))


@cache
def _load(name):
    return load_config(str(paper.CONFIGS / name))


class OneStep(Hook):
    """Stop after one iteration and one validation; keep what they give."""

    def before_train(self, runner):
        self.start = deepcopy(runner.model.state_dict())

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.losses = outputs
        runner.train_loop.stop_training = True

    def before_val(self, runner):
        self.predictions = []

    def after_val_iter(self, runner, batch_idx, data_batch, outputs):
        self.predictions += outputs


@pytest.mark.parametrize('name', FILES)
def test_step(name, root, tmp_path, monkeypatch):
    """One training step and one validation, in the configured model.

    Smaller are images and batches, the number of RoIs and the dataset.
    """
    monkeypatch.chdir(root)
    cfg = load(name)
    shrink(cfg)
    runner, step = run_step(cfg, tmp_path, monkeypatch)

    assert all(v.isfinite().all() for v in step.losses.values())
    assert len(step.predictions) == len(runner.val_dataloader.dataset) == 2
    assert any(not v.equal(step.start[k]) for k, v in runner.model.named_parameters())
    annealed = 'ra_' in name and 'no_annealing' not in name
    assert ('train/temp' in runner.message_hub.log_scalars) == annealed


def run_step(cfg, tmp_path, monkeypatch):
    # Formatted for the log four times, half of the test's duration.
    monkeypatch.setattr(Config, 'pretty_text', '')
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = tmp_path.name
    check(cfg, 'train')
    runner = build_runner(cfg)
    step = OneStep()
    runner.register_hook(step)
    runner.train()
    assert runner.iter == 1
    return runner, step


def shrink(cfg):
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 2
        loader.num_workers = 0
        loader.persistent_workers = False
        for step in loader.dataset.pipeline:
            for key in ('scale', 'crop_size'):
                if key in step:
                    step[key] = SIDE if isinstance(step[key], int) else (SIDE, SIDE)
        loader.dataset.indices = 2
    if 'size' in cfg.model.get('data_preprocessor', {}):
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
    if 'rpn_head' in cfg.model:
        cfg.model.train_cfg.rpn_proposal.max_per_img = 32
        cfg.model.train_cfg.rcnn.sampler.num = 16
        cfg.model.test_cfg.rpn.max_per_img = 32
    if 'pretrained' in cfg.model:
        cfg.model.pretrained = None
    if 'init_cfg' in cfg.model.backbone:
        cfg.model.backbone.init_cfg = None
    cfg.train_cfg.val_interval = 1
    cfg.default_hooks.checkpoint.interval = 10**6  # none


# What the configs claim

VARIANTS = {
    name: re.sub('(ra|se|cbam)_', '', name)
    for name in FILES
    if re.search('(ra|se|cbam)_', name) and re.sub('(ra|se|cbam)_', '', name) in FILES
}


def test_variants():
    """All models of Tables 2-4, UperNet, Table 10's 200 and 300 epochs."""
    assert len(VARIANTS) == 3 * (3 + 3 + 2 + 1) + 4


@pytest.mark.parametrize('name', VARIANTS)
def test_differs_in_the_backbone_alone(name):
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


@pytest.mark.parametrize(
    'name', [name for name in FILES if name.startswith('ablation/')]
)
def test_differs_in_the_ablation_alone(name):
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


def contents(cfg):
    other = ('custom_hooks', 'work_dir')
    return {k: v for k, v in cfg.to_dict().items() if k not in other}


@pytest.mark.parametrize('name', ['faster_rcnn_ra_r50.py', 'upernet_ra_r50.py'])
def test_ra_starts_as_the_baseline(name, tmp_path):
    """The same backbone weights compute the same, with gamma = 0."""
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


# Table 1: learning rate, weight decay, epochs, dropout
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


# The list of the paper's rows


def test_rows():
    rows, metrics = paper.rows(), paper.metrics()
    assert len(set(map(str, rows))) == len(rows)
    assert {row.table for row in rows} == set(range(2, 11))
    for row in rows:
        assert row.config.is_file(), row
        assert row.paper.keys() <= metrics.keys(), row
        assert row.misprints.keys() <= row.paper.keys(), row
        assert bool(row.start) == (row.table in (4, 5)), row
        if row.start:
            assert row.start.parent.name == 'imagenet'
            assert row.start.is_file()
    assert paper.rows(3, 2) == paper.rows(2, 3)
    assert paper.rows(2)[6].paper['flops'] == Decimal('4.140')
    assert str(paper.rows(2)[6].paper['flops']) == '4.140'
    with pytest.raises(ValueError, match='table 11'):
        paper.rows(11)


def test_starts_from_its_own_backbone():
    for row in paper.rows(4, 5):
        own, start = (
            load(path.relative_to(paper.CONFIGS)).model.backbone
            for path in (row.config, row.start)
        )
        assert own.get('attention') == start.get('attention'), row
        assert (own.type == 'ra_mm.RAResNet') == (start.type == 'ra_mm.RAResNet'), row
        assert own.depth == start.depth == 50, row


def test_same_accuracy_of_the_same_config():
    """The paper prints some rows more than once."""
    seen = {}
    for row in paper.rows():
        for metric in ('top1', 'top5'):
            if metric in row.paper:
                seen.setdefault((row.config, metric), set()).add(row.paper[metric])
    assert all(len(values) == 1 for values in seen.values())


def test_every_config_is_in_the_list():
    listed = {str(row.config.relative_to(paper.CONFIGS)) for row in paper.rows()}
    others = [
        name
        for name in set(FILES) - listed
        if not name.startswith(('_base_/', 'demo/'))
    ]
    assert others == ['faster_rcnn_ra_r50_bccd.py']  # the user's own data


def test_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, 'CONFIGS', tmp_path)
    with pytest.raises(FileNotFoundError, match='pip install -e'):
        paper.rows()


# In another project's config

README = (paper.CONFIGS.parent / 'README.md').read_text()
SECTION = re.search('## Use it in your own config\n(.*?)\n## ', README, re.S)[1]
# Two configs, each with a comment at its top.
OWN = re.split(
    r'\n\n(?=#)',
    textwrap.dedent(''.join(re.findall(r'^(?:    .*)?\n', SECTION, re.M))).strip(),
)
MODELS_OF_MMSEG = sorted(
    path.name
    for path in Path(mmseg.__path__[0]).glob('.mim/configs/_base_/models/*.py')
    if "backbone=dict(\n        type='ResNetV1c'" in path.read_text()
)


@pytest.mark.parametrize('text', OWN, ids=['mmdet', 'mmseg'])
def test_lines_of_the_readme(text, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    checked = cfg.model.backbone.init_cfg.checkpoint
    assert 'resnet50' in checked
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.backbone.train()
    out = model.backbone(torch.randn(2, 3, 32, 32))
    assert [f.shape[1] for f in out] == [256, 512, 1024, 2048]
    (hook,) = cfg.custom_hooks
    assert hook.type == 'ra_mm.TempAnnealingHook'


def test_models_of_mmseg_are_found():
    """As many as the README says were tried."""
    assert f'all {len(MODELS_OF_MMSEG)} base models' in README


@pytest.mark.parametrize('name', MODELS_OF_MMSEG)
def test_inherited_from_mmseg(name, tmp_path):
    """With dilations, one output or several, and all other options."""
    path = tmp_path / 'own.py'
    (base,) = re.findall(r"/.mim/configs/(\S+)'", OWN[1])
    path.write_text(OWN[1].replace(base, f'_base_/models/{name}'))
    cfg = Config.fromfile(path)
    ours = dict(cfg.model.backbone, init_cfg=None, depth=18)
    theirs = dict(ours, type='mmseg.ResNetV1c')
    del theirs['deep_stem']
    x = torch.randn(1, 3, 64, 64)
    shapes = []
    for backbone in (ours, theirs):
        model = MODELS.build(backbone)
        model.eval()
        shapes.append([y.shape for y in model(x)])
    assert shapes[0] == shapes[1]


# From ImageNet to a detector


def test_pretraining(root, tmp_path, monkeypatch):
    """A classifier of class folders, then a detector that starts from it."""
    monkeypatch.chdir(root)
    classes = 'metainfo.classes=[circle,square,star,triangle]'
    options = ['train_cfg.max_epochs=2', 'custom_hooks.0.length=1']
    options += [
        f'model.{option}'
        for option in (
            'backbone.stem_channels=32',
            'backbone.base_channels=32',
            'head.in_channels=256',
            'head.num_classes=4',
            'head.topk=[1]',
        )
    ]
    options += ['val_evaluator.topk=[1]', 'test_evaluator.topk=[1]']
    for part in ('train', 'val'):
        options += [
            f'{part}_dataloader.{option}'
            for option in (
                'batch_size=4',
                'num_workers=0',
                'dataset.data_root=data/shapes/classes',
                f'dataset.{classes}',
                'dataset.pipeline.1.scale=32',
            )
        ]
    options += ['val_dataloader.dataset.pipeline.2.crop_size=32']
    work_dir = tmp_path / 'imagenet'
    done = subprocess.run(
        [
            sys.executable,
            paper.CONFIGS.parent / 'tools/train.py',
            paper.CONFIGS / 'imagenet/ra_r18.py',
            '--work-dir',
            work_dir,
            '--cfg-options',
            *options,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    checkpoint = str(work_dir / 'epoch_2.pth')
    weights = {
        key: value
        for key, value in read_state_dict(checkpoint).items()
        if key.startswith('backbone.')
    }
    assert all(value.any() for key, value in weights.items() if 'gamma' in key)

    cfg = load('demo/faster_rcnn_ra_r18.py')
    shrink(cfg)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    runner, step = run_step(cfg, tmp_path / 'detector', monkeypatch)
    for key, value in weights.items():
        torch.testing.assert_close(step.start[key], value, rtol=0, atol=0)
    assert {key for key in step.start if key.startswith('backbone.')} == weights.keys()
    assert runner.message_hub.get_scalar('train/temp').current() == 1
