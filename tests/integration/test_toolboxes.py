"""The tools serve mmdet, mmseg and mmpretrain, and pure-Python configs."""

import json
import pickle

import pytest
import torch


def pictures(folder):
    return [p for p in folder.rglob('*') if p.suffix in ('.png', '.jpg')]


def test_mmseg(train, test, configs, tmp_path):
    """With SyncBN in the config, on a CPU."""
    config = configs / 'segmenter.py'
    train(config)
    options = [config, tmp_path / 'work/iter_2.pth', '--out', tmp_path / 'out.pkl']
    # A second visualizer of one name in one process would be the first.
    argv = '--cfg-options', 'visualizer.name=second'
    plain = test(*options, '--show-dir', tmp_path / 'pictures', *argv)
    assert len(pictures(tmp_path / 'pictures')) == 8
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert [p['pred_sem_seg']['data'].shape for p in predictions] == [(1, 64, 64)] * 8

    assert test(*options, '--tta').keys() == plain.keys()
    assert plain['mIoU'] > 0


def test_syncbn_of_processes_on_the_cpu(train, configs, tmp_path, capsys, monkeypatch):
    """As torchrun starts it with --nproc_per_node=1."""
    for name in ('RANK', 'LOCAL_RANK', 'MASTER_PORT'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setenv('WORLD_SIZE', '1')
    monkeypatch.setenv('MASTER_ADDR', 'localhost')
    try:
        train(configs / 'segmenter.py', '--launcher', 'pytorch')
        assert torch.distributed.get_backend() == 'gloo'
    finally:
        torch.distributed.destroy_process_group()
    assert 'SyncBN' in ''.join(capsys.readouterr())
    assert (tmp_path / 'work/iter_2.pth').exists()


def test_mmpretrain(message, train, test, configs, tmp_path):
    config = configs / 'classifier.py'
    train(config)
    options = [config, tmp_path / 'work/epoch_1.pth', '--out', tmp_path / 'out.pkl']
    accuracy = test(*options, '--show-dir', tmp_path / 'pictures')
    # Pictures with the same name in several class folders: the last one remains.
    assert len(pictures(tmp_path / 'pictures')) == 2
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    right = [int(p['pred_label'][0]) == int(p['gt_label'][0]) for p in predictions]
    assert len(right) == 8
    assert accuracy['accuracy/top1'] == pytest.approx(100 * sum(right) / len(right))
    assert test(*options, '--tta').keys() == accuracy.keys()

    assert '--tta' in message(test, *options, '--tta', '--show-dir', tmp_path)


def test_mmdet_without_ground_truth(test, configs, checkpoint, shapes, tmp_path):
    """The server of a benchmark wants the JSON file of the detections."""
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    ids = {image['id'] for image in coco['images']}
    del coco['annotations']
    (tmp_path / 'images.json').write_text(json.dumps(coco))
    test(
        configs / 'detector.py',
        checkpoint,
        '--cfg-options',
        f'test_dataloader.dataset.ann_file={tmp_path}/images.json',
        f'test_evaluator.ann_file={tmp_path}/images.json',
        'test_evaluator.format_only=True',
        f'test_evaluator.outfile_prefix={tmp_path}/found',
    )
    found = json.loads((tmp_path / 'found.bbox.json').read_text())
    assert {box['image_id'] for box in found} <= ids
    assert {'bbox', 'score', 'category_id'} <= found[0].keys()


def test_pictures_without_their_hook(message, test, configs, checkpoint):
    argv = '--show-dir=pictures', '--cfg-options', 'default_hooks.visualization=None'
    text = message(test, configs / 'detector.py', checkpoint, *argv)
    assert 'default_hooks.visualization' in text


PURE_PYTHON = """
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmpretrain.datasets import CustomDataset, PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from mmpretrain.models import ClsDataPreprocessor, CrossEntropyLoss
from mmcv.transforms import LoadImageFromFile
from torch.optim import SGD
from ra_mm.backbones import RAResNet

default_scope = None
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(type=ClsDataPreprocessor, num_classes=4),
    backbone=dict(type=RAResNet, depth=18, base_channels=8, stem_channels=8),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=4, in_channels=64,
              loss=dict(type=CrossEntropyLoss)))
pipeline = [dict(type=LoadImageFromFile), dict(type=PackInputs)]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=CustomDataset, data_root='{data}/classes', data_prefix='val',
                 pipeline=pipeline))
val_dataloader = test_dataloader = train_dataloader
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
val_evaluator = test_evaluator = dict(type=Accuracy, topk=(1, ))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
"""


def test_pure_python_config(message, train, test, shapes, tmp_path):
    """Types are classes, not strings, and there is no default_scope."""
    config = tmp_path / 'pure_python.py'
    config.write_text(PURE_PYTHON.format(data=shapes))
    train(config)
    checkpoint = tmp_path / 'work/epoch_1.pth'
    metrics = test(config, checkpoint, '--tta', '--out', tmp_path / 'out.pkl')
    assert 'accuracy/top1' in metrics
    assert len(pickle.loads((tmp_path / 'out.pkl').read_bytes())) == 8
    if not torch.cuda.is_available():
        assert 'gpu' in message(train, config, '--amp').lower()
