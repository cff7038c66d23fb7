"""One training and one test entry serve mmseg and mmpretrain too."""

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
    checkpoint = tmp_path / 'work/iter_2.pth'
    options = [config, checkpoint, '--out', tmp_path / 'out.pkl']
    # A second visualizer of one name in one process would be the first.
    plain = test(
        *options,
        '--show-dir',
        tmp_path / 'pictures',
        '--cfg-options',
        'visualizer.name=second',
    )
    assert len(pictures(tmp_path / 'pictures')) == 8
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert [p['pred_sem_seg']['data'].shape for p in predictions] == [(1, 64, 64)] * 8

    tta = test(*options, '--tta')
    assert plain.keys() == tta.keys()
    assert plain['mIoU'] > 0


def test_syncbn_of_processes_on_the_cpu(train, configs, tmp_path, capsys, monkeypatch):
    """As torchrun with --nproc_per_node=1 starts it."""
    for name, value in (
        ('RANK', 0),
        ('LOCAL_RANK', 0),
        ('WORLD_SIZE', 1),
        ('MASTER_ADDR', 'localhost'),
        ('MASTER_PORT', 0),
    ):
        monkeypatch.setenv(name, str(value))
    try:
        train(configs / 'segmenter.py', '--launcher', 'pytorch')
        assert torch.distributed.get_backend() == 'gloo'
    finally:
        torch.distributed.destroy_process_group()
    assert 'BN takes the place of SyncBN' in capsys.readouterr().err
    assert (tmp_path / 'work/iter_2.pth').exists()


def test_mmpretrain(train, test, configs, tmp_path, capsys):
    config = configs / 'classifier.py'
    train(config)
    checkpoint = tmp_path / 'work/epoch_1.pth'
    options = [config, checkpoint, '--out', tmp_path / 'out.pkl']
    accuracy = test(*options, '--show-dir', tmp_path / 'pictures')
    # Pictures of one name in several class folders: the last one is left.
    assert len(pictures(tmp_path / 'pictures')) == 2
    assert '8 images in several folders have 2 names' in (capsys.readouterr().err)
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    right = [int(p['pred_label'][0]) == int(p['gt_label'][0]) for p in predictions]
    assert len(right) == 8
    assert accuracy['accuracy/top1'] == pytest.approx(100 * sum(right) / len(right))
    assert test(*options, '--tta').keys() == accuracy.keys()

    with pytest.raises(SystemExit):
        test(*options, '--tta', '--show-dir', tmp_path / 'pictures')
    assert 'does not draw with --tta' in capsys.readouterr().err


def test_mmdet_without_ground_truth(test, configs, checkpoint, shapes, tmp_path):
    """What a benchmark's server wants: the json of the detections."""
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


def test_mmdet_tta(test, configs, checkpoint):
    """Without tta_model and tta_pipeline in the config: a flip."""
    metrics = test(configs / 'detector.py', checkpoint, '--tta')
    assert 'coco/bbox_mAP' in metrics


@pytest.mark.parametrize(
    'flag, expected',
    [
        ('--out=predictions.json', 'ends in .pkl'),
        ('--show-dir=pictures', 'no default_hooks.visualization'),
    ],
)
def test_outputs_that_cannot_be(test, configs, checkpoint, capsys, flag, expected):
    with pytest.raises(SystemExit):
        test(
            configs / 'detector.py',
            checkpoint,
            flag,
            '--cfg-options',
            'default_hooks.visualization=None',
        )
    assert expected in capsys.readouterr().err
