"""What the preflight looks at beyond the mistakes in test_bad_input.py."""

import json
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config

from ra_mm.preflight import check


@pytest.fixture
def cfg(configs):
    cfg = Config.fromfile(configs / 'detector.py')
    cfg.work_dir = 'unused'
    cfg.launcher = 'none'
    return cfg


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are GPUs."""

    def pretend(count, mmcv_cuda='12.8'):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: count > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
        monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: mmcv_cuda)

    return pretend


def test_no_gpu(cfg, gpus, capsys):
    gpus(0)
    check(cfg, 'test')
    assert capsys.readouterr().err == 'warning: no GPU: testing on the CPU\n'


def test_learning_rate(cfg, gpus, capsys, monkeypatch):
    gpus(4)
    cfg.launcher = 'pytorch'
    for name, value in (('RANK', '0'), ('WORLD_SIZE', '4'), ('LOCAL_WORLD_SIZE', '4')):
        monkeypatch.setenv(name, value)
    cfg.auto_scale_lr.base_batch_size = 16
    cfg.train_dataloader.batch_size = 2
    check(cfg, 'train')
    err = capsys.readouterr().err
    assert 'made for 16 images a step, this run has 8 (4 process(es)' in err
    assert 'pass --auto-scale-lr to multiply it by 0.5' in err

    cfg.train_dataloader.batch_size = 4
    check(cfg, 'train')
    assert capsys.readouterr().err == ''

    cfg.train_dataloader.batch_size = 2
    cfg.optim_wrapper.accumulative_counts = 2
    check(cfg, 'train')
    assert capsys.readouterr().err == ''
    cfg.optim_wrapper.accumulative_counts = 4
    check(cfg, 'train')
    assert (
        'this run has 32 (4 process(es) with 2 each, 4 times): multiply it by 2'
    ) in capsys.readouterr().err
    cfg.auto_scale_lr.enable = True
    with pytest.raises(ValueError, match='not count accumulative_counts=4'):
        check(cfg, 'train')

    cfg.optim_wrapper.accumulative_counts = 1
    check(cfg, 'train')
    assert capsys.readouterr().err == ''

    gpus(2)
    with pytest.raises(ValueError, match=r'4 processes for 2 GPU\(s\)'):
        check(cfg, 'train')


def test_mmcv_without_cuda(cfg, gpus):
    gpus(1, mmcv_cuda='not available')
    with pytest.raises(ValueError, match='mmcv was built without CUDA'):
        check(cfg, 'train')


def test_one_process_looks(cfg, monkeypatch, capsys):
    cfg.train_dataloader.dataset.data_root = 'none'
    monkeypatch.setenv('LOCAL_RANK', '1')
    check(cfg, 'train')
    assert capsys.readouterr().err == ''
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(ValueError, match='there is no folder none'):
        check(cfg, 'train')


def test_wrapped_datasets(cfg):
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(
            type='ConcatDataset',
            datasets=[dataset, dict(dataset, ann_file='none.json')],
        ),
    )
    with pytest.raises(
        ValueError,
        match=r'none\.json; point elsewhere with '
        r'--cfg-options train_dataloader\.dataset\.dataset\.datasets\.1\.'
        r'ann_file=FILE',
    ):
        check(cfg, 'train')


def test_the_right_part_is_looked_at(cfg):
    cfg.test_dataloader.dataset.data_root = 'none'
    check(cfg, 'train')
    with pytest.raises(ValueError, match='test_dataloader'):
        check(cfg, 'test')


def test_subset_of_the_classes(cfg, capsys):
    """mmdet's way to leave categories out; said, in case it is an accident."""
    classes = ('circle', 'square', 'star')
    cfg.train_dataloader.dataset.metainfo = dict(classes=classes)
    cfg.val_dataloader.dataset.metainfo = dict(classes=classes)
    cfg.model.roi_head.bbox_head.num_classes = 3
    check(cfg, 'train')
    warning = capsys.readouterr().err
    assert 'left out (triangle)' in warning


def test_test_images_need_no_annotations(cfg, shapes, tmp_path):
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    del coco['annotations']
    path = tmp_path / 'image_info.json'
    path.write_text(json.dumps(coco))
    cfg.test_dataloader.dataset.ann_file = str(path)
    cfg.test_evaluator.ann_file = str(path)
    check(cfg, 'test')


def test_imagenet(tmp_path):
    """Both of mmpretrain's layouts: class folders, and meta/*.txt."""
    cfg = Config.fromfile(_installed('mmpretrain', 'resnet/resnet18_8xb32_in1k.py'))
    cfg.launcher, cfg.work_dir = 'none', str(tmp_path)
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.data_root = str(tmp_path)
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match=f'{tmp_path}/train has no folders'):
        check(cfg, 'train')
    (tmp_path / 'meta').mkdir()
    for part in ('train', 'val'):
        (tmp_path / f'meta/{part}.txt').write_text('a.jpg 0\n')
    check(cfg, 'train')


@pytest.mark.parametrize(
    'toolbox, config, root',
    [
        ('mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'data/coco'),
        (
            'mmseg',
            'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
            'data/ade/ADEChallengeData2016',
        ),
        ('mmpretrain', 'resnet/resnet50_8xb32_in1k.py', 'data/imagenet'),
    ],
)
def test_every_toolbox_says_where_its_data_goes(
    tmp_path, monkeypatch, toolbox, config, root
):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(_installed(toolbox, config))
    cfg.launcher = 'none'
    with pytest.raises(ValueError) as error:
        check(cfg, 'train')
    text = str(error.value)
    assert f'(in {tmp_path}); link yours there (ln -s DIR {root})' in text
    assert (
        'train_dataloader.dataset.data_root=DIR val_dataloader.dataset.data_root=DIR'
    ) in text


def _installed(toolbox, config):
    module = __import__(toolbox)
    return f'{module.__path__[0]}/.mim/configs/{config}'


def test_checkpoints_within_epochs(cfg, capsys):
    cfg.default_hooks.checkpoint.by_epoch = False
    check(cfg, 'train')
    assert 'at the end of an epoch repeats' in capsys.readouterr().err


def test_deprecated_name_of_weights(cfg, tmp_path, monkeypatch):
    """mmengine knows what it is called now."""
    fetched = []

    def fetch(url, file):
        fetched.append(url)
        raise OSError

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint='open-mmlab://resnet50_caffe'
    )
    with pytest.raises(ValueError, match='cannot be downloaded'):
        check(cfg, 'train')
    assert 'resnet50_caffe' in fetched[0]


def test_things_of_a_panoptic_dataset(capsys):
    """53 of its 133 classes have no boxes."""
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent
        / '.mim/configs/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
    )
    cfg.work_dir, cfg.launcher = 'unused', 'none'
    with pytest.raises(ValueError) as e:
        check(cfg, 'train')
    assert 'there is no folder data/coco/' in str(e.value)
    assert 'num_classes' not in str(e.value)
