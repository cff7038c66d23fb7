"""Every config file trains and validates for a step."""

import json
import shutil
from copy import deepcopy

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook

from ra_mm.checks.rules import check_config
from ra_mm.cli import build_runner, load_config
from reproduction import paper

FILES = sorted(
    str(path.relative_to(paper.CONFIGS))
    for path in paper.CONFIGS.rglob('*.py')
    if path.parent != paper.CONFIGS / 'demo/_base_'
)
SIDE = 64  # of all images, in pixels


@pytest.fixture(scope='session')
def root(shapes, tmp_path_factory):
    """A folder with data/ as the configs expect it, with two images per split."""
    from mmdet.datasets import CocoDataset

    data = tmp_path_factory.mktemp('root') / 'data'
    classes, folder = CocoDataset.METAINFO['classes'], data / 'coco'
    write_coco(shapes, classes, folder, 'annotations/instances_{}2017.json', '{}2017')
    classes, folder = ('RBC', 'WBC', 'Platelets'), data / 'bccd'
    write_coco(shapes, classes, folder, 'annotations/{}.json', 'images')
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


def write_coco(shapes, classes, root, ann_file, images):
    """Write two images per split; the shapes take the names of the first classes."""
    for split in ('train', 'val'):
        coco = json.loads((shapes / f'annotations/{split}.json').read_text())
        coco['images'] = coco['images'][:2]
        for image in coco['images']:
            name = f'{split}_{image["file_name"]}'
            source = shapes / f'images/{split}' / image['file_name']
            copy(source, root / images.format(split) / name)
            image['file_name'] = name
        coco['annotations'] = [
            dict(a, category_id=1 + a['category_id'] % len(classes[:4]))
            for a in coco['annotations']
            if a['image_id'] < 3
        ]
        coco['categories'] = [
            dict(id=i, name=name) for i, name in enumerate(classes, 1)
        ]
        path = root / ann_file.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco))


class OneStep(Hook):
    """Stop after one iteration and one validation; keep losses and predictions."""

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
    """One training step and one validation of the configured model.

    Only images, batches, datasets and the number of RoIs are smaller.
    """
    monkeypatch.chdir(root)
    cfg = load_config(str(paper.CONFIGS / name))
    shrink(cfg)
    # Formatting the config for the log takes half of the test's time.
    monkeypatch.setattr(Config, 'pretty_text', '')
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = tmp_path.name
    check_config(cfg, 'train').raise_errors()
    runner = build_runner(cfg)
    step = OneStep()
    runner.register_hook(step)
    runner.train()

    assert runner.iter == 1
    assert all(v.isfinite().all() for v in step.losses.values())
    assert len(step.predictions) == len(runner.val_dataloader.dataset) == 2
    assert any(not v.equal(step.start[k]) for k, v in runner.model.named_parameters())
    has_temp = any(text in name for text in ('ra_', 'static_gate', 'gated_residual'))
    annealed = has_temp and 'no_annealing' not in name
    assert ('train/temp' in runner.message_hub.log_scalars) == annealed


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
    cfg.default_hooks.checkpoint.interval = 10**6  # no checkpoints
