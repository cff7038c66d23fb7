"""Every mistake ends in one message that says what to do, and status 1."""

import json
import re
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ra_mm.cli import report_user_errors
from ra_mm.preflight import check

# The config and the command line


def test_missing_config(message, train):
    assert 'nope.py: there is no such config' in message(train, 'nope.py')


def test_config_with_an_error(message, train, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('model = dict(')
    assert re.search(r'config.py cannot be read .* SyntaxError', message(train, config))
    config.write_text('a = 1')
    assert 'has no model' in message(train, config)
    config.write_text("_base_ = 'mmseg::upernet/upernet_r50.py'")
    assert 'Name the file by its path' in message(train, config)


@pytest.mark.parametrize(
    'option, expected',
    [
        ('train_dataloder.batch_size=4', "is 'train_dataloader' meant?"),
        ('data=/elsewhere', 'change train_dataloader.dataset.data_root, '),
        ('custom_hooks.3.length=1', 'Index 3 exceeds the length'),
        ('train_cfg.max_epoch=3', "unexpected keyword argument 'max_epoch'"),
        ('model.backbone.depth=51', 'depth=51: '),
        (
            'model.backbone.type=RAResNt',
            "RAResNt is not in the mmdet::model registry: is type='ra_mm.RAResNet' ",
        ),
        (
            'custom_hooks.0.type=ra_mm.TempAnealingHook',
            "is type='ra_mm.TempAnnealingHook' meant?",
        ),
        ('model.backbone.init_cfg.checkpoint=a.pth', 'expected None or a dict'),
        ('custom_hooks.0.start=0.5', 'start >= end > 0 is expected'),
        ('custom_hooks.0.length=13', '26 iterations, but the whole training'),
        (
            'model.roi_head.bbox_head.num_classes=80',
            'model.roi_head.bbox_head.num_classes=4',
        ),
        (
            'train_dataloader.persistent_workers=True',
            'train_dataloader.persistent_workers=False',
        ),
        ('optim_wrapper.type=AmpOptimWrapper', 'needs a GPU'),
        ('model.backbone.depth=50', 'do not fit each other: set in_channels of '),
    ],
)
def test_option(message, train, detector, option, expected):
    assert expected in message(train, detector, '--cfg-options', option)


def test_too_few_classes_for_the_top_5(message, train, configs):
    assert 'val_evaluator.topk=(1, 5): the model has 4 classes' in message(
        train, configs / 'classifier.py', '--cfg-options', 'val_evaluator.topk=(1,5)'
    )


def test_unknown_metric_of_the_best(message, train, configs):
    assert (
        "save_best='accuracy/top': there is no such metric, but (accuracy/top1)"
    ) in message(
        train,
        configs / 'classifier.py',
        '--cfg-options',
        'default_hooks.checkpoint.save_best=accuracy/top',
        'default_hooks.checkpoint.rule=greater',
    )


@pytest.mark.parametrize(
    'flags', [('--out', '{}/file/a.pkl'), ('--show-dir', '{}/file')]
)
def test_nowhere_to_write(
    message, test, detector, checkpoint, tmp_path, monkeypatch, flags
):
    """It is said before the images are gone through, not after."""
    (tmp_path / 'file').touch()
    monkeypatch.setattr(Runner, 'test', None)
    text = message(
        test, detector, checkpoint, *[flag.format(tmp_path) for flag in flags]
    )
    assert f'{flags[0]}: nothing can be written to {tmp_path}/file (' in text


def test_folders_in_place_of_files(message, test, detector, tmp_path):
    expected = f'{tmp_path}: a folder, name a file in it'
    assert expected in message(test, tmp_path, 'a.pth')
    assert expected in message(test, detector, tmp_path)


def test_work_dir_is_a_file(message, train, detector, tmp_path):
    (tmp_path / 'work').touch()
    assert '--work-dir: nothing can be written to ' in message(train, detector)


def test_option_without_value(message, train, detector):
    assert "'model' is not of the form KEY=VALUE" in message(
        train, detector, '--cfg-options', 'model', status=2
    )


def test_option_like_another(train, detector, capsys):
    with pytest.raises(SystemExit):
        train(
            detector,
            '--cfg-options',
            'model.test_cfg.rcnn.score_th=0.3',
            'model.backbone.depth=51',
        )
    assert "no 'score_th' there; is 'score_thr' meant?" in (capsys.readouterr().err)


def test_torchrun_without_launcher(message, train, detector, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert 'pass --launcher pytorch' in message(train, detector)
    monkeypatch.delenv('WORLD_SIZE')
    assert 'needs torchrun' in message(train, detector, '--launcher', 'pytorch')


def test_amp_without_a_wrapper(message, train, detector):
    assert 'has no optim_wrapper' in message(
        train, detector, '--amp', '--cfg-options', 'optim_wrapper=None'
    )


def test_unscalable_learning_rate(message, train, detector):
    assert 'auto_scale_lr.base_batch_size=NUMBER' in message(
        train, detector, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'
    )


# Data


def test_missing_dataset(message, train, detector):
    text = message(
        train,
        detector,
        '--cfg-options',
        'train_dataloader.dataset.data_root=data/none',
        'val_dataloader.dataset.data_root=data/none',
        'val_evaluator.ann_file=data/none/annotations/val.json',
    )
    assert 'there is no folder data/none (in /' in text
    assert 'ln -s DIR data/none' in text
    assert (
        '--cfg-options train_dataloader.dataset.data_root=DIR '
        'val_dataloader.dataset.data_root=DIR '
        'val_evaluator.ann_file=DIR/annotations/val.json'
    ) in text
    assert '\n' not in text.strip()


def test_everything_missing_in_one_message(message, train, detector):
    text = message(
        train,
        detector,
        '--resume',
        '--cfg-options',
        'train_dataloader.dataset.data_prefix.img=none',
        'val_dataloader.dataset.ann_file=none.json',
        'val_evaluator.ann_file=none.json',
    )
    assert '4 things are missing or wrong' in text
    for what in (
        'there is no checkpoint in',
        '/none;',
        '/none.json',
        'there is no file none.json',
    ):
        assert what in text


def rename(coco):
    coco['categories'][0]['name'] = 'cell'


def undefine(coco):
    coco['annotations'][0]['category_id'] = 99


def reverse(coco):
    coco['categories'].reverse()


@pytest.mark.parametrize(
    'spoil, expected',
    [
        (
            rename,
            'annotations with unknown categories: the config has (circle, '
            'square, star, triangle), the file has (cell, square, star, triangle)',
        ),
        (undefine, '1 annotations are of unknown categories: category_id (99)'),
        (reverse, "mmdet numbers the classes in the file's order"),
        (lambda coco: coco.update(images=[]), 'lists no images'),
        (lambda coco: coco.update(annotations=[]), 'no annotations to train on'),
        (lambda coco: coco.pop('categories'), 'it has no categories'),
        (
            lambda coco: coco['annotations'][0].pop('area'),
            "an entry of annotations has no 'area'",
        ),
        (
            lambda coco: coco['images'][0].update(file_name='none.jpg'),
            '1 of 16 files are missing',
        ),
    ],
)
def test_annotations(message, train, configs, shapes, tmp_path, spoil, expected):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    spoil(coco)
    spoiled = tmp_path / 'spoiled.json'
    spoiled.write_text(json.dumps(coco))
    text = message(
        train,
        configs / 'detector.py',
        '--cfg-options',
        f'train_dataloader.dataset.ann_file={spoiled}',
    )
    assert expected in text
    assert str(spoiled) in text


def test_annotations_that_are_not_json(message, train, detector, tmp_path):
    (tmp_path / 'bad.json').write_text('{"images": [')
    assert 'bad.json is no JSON file' in message(
        train,
        detector,
        '--cfg-options',
        f'train_dataloader.dataset.ann_file={tmp_path}/bad.json',
    )


def test_boxes_for_a_mask_model(message, train, configs, shapes, tmp_path):
    coco = json.loads((shapes / 'annotations/train.json').read_text())
    for annotation in coco['annotations']:
        del annotation['segmentation']
    (tmp_path / 'boxes.json').write_text(json.dumps(coco))
    assert 'have no segmentation' in message(
        train,
        configs / 'detector.py',
        '--cfg-options',
        f'train_dataloader.dataset.ann_file={tmp_path}/boxes.json',
        'train_dataloader.dataset.pipeline.1.with_mask=True',
    )


def test_evaluator_of_another_split(message, train, detector, shapes, tmp_path):
    """Of other images, though both number theirs from 1."""
    coco = json.loads((shapes / 'annotations/val.json').read_text())
    for image in coco['images']:
        image['file_name'] = f'other_{image["file_name"]}'
    (tmp_path / 'other.json').write_text(json.dumps(coco))
    assert 'lacks images of val_dataloader.dataset.ann_file' in message(
        train,
        detector,
        '--cfg-options',
        f'val_evaluator.ann_file={tmp_path}/other.json',
    )


def test_evaluator_of_other_images(message, test, configs, checkpoint):
    assert 'test_evaluator.ann_file is' in message(
        test,
        configs / 'detector.py',
        checkpoint,
        '--cfg-options',
        'test_dataloader.dataset.ann_file=annotations/train.json',
        'test_dataloader.dataset.data_prefix.img=images/train',
    )


@pytest.mark.parametrize(
    'options, expected',
    [
        (['train_dataloader.dataset.data_prefix.seg_map_path=none'], '/none'),
        (
            ['train_dataloader.dataset.data_prefix.seg_map_path=masks/val'],
            '8 of 16 files are missing',
        ),
        (['train_dataloader.dataset.img_suffix=.tif'], 'img_suffix=.jpg'),
        (
            ['train_dataloader.dataset.seg_map_suffix=_labels.gif'],
            '16 of 16 files are missing',
        ),
        (
            ['train_dataloader.dataset.seg_map_suffix=_labels.gif'],
            'pass --cfg-options train_dataloader.dataset.seg_map_suffix=.png',
        ),
        (['model.decode_head.num_classes=150'], 'model.decode_head.num_classes=5'),
    ],
)
def test_segmentation(message, train, configs, options, expected):
    assert expected in message(
        train, configs / 'segmenter.py', '--cfg-options', *options
    )


def test_class_folders(message, train, configs, shapes, tmp_path):
    classes = shapes / 'classes'
    assert 'no folders, one for each class' in message(
        train,
        configs / 'classifier.py',
        '--cfg-options',
        f'train_dataloader.dataset.data_prefix={classes}/train/star',
    )
    # One class is absent from the validation data: labels would shift.
    for name in ('circle', 'star', 'triangle'):
        (tmp_path / name).symlink_to(classes / 'val' / name)
    assert 'val_dataloader.dataset has (circle, star, triangle)' in message(
        train,
        configs / 'classifier.py',
        '--cfg-options',
        f'val_dataloader.dataset.data_prefix={tmp_path}',
    )
    assert 'model.head.num_classes=4' in message(
        train, configs / 'classifier.py', '--cfg-options', 'model.head.num_classes=1000'
    )
    assert 'the config has 2 classes (a, b)' in message(
        train,
        configs / 'classifier.py',
        '--cfg-options',
        'train_dataloader.dataset.metainfo.classes=[a,b]',
    )


# Checkpoints


@pytest.fixture
def pretrained(detector, tmp_path):
    """A config whose backbone starts from a checkpoint."""

    def write(checkpoint, depth=18):
        config = tmp_path / 'pretrained.py'
        config.write_text(f"""
_base_ = '{detector}'
init_cfg = dict(_delete_=True, type='Pretrained', checkpoint='{checkpoint}')
model = dict(backbone=dict(depth={depth}, init_cfg=init_cfg))
""")
        return config

    return write


@pytest.fixture
def checkpoints(checkpoint, tmp_path):
    """Bad checkpoints by name, and a plain detector's."""
    whole = checkpoint.read_bytes()
    (tmp_path / 'text.pth').write_text('no weights in here')
    (tmp_path / 'truncated.pth').write_bytes(whole[: len(whole) // 2])
    torch.save(torch.nn.Linear(1, 1), tmp_path / 'code.pth')
    saved = torch.load(checkpoint, weights_only=False)
    torch.save(
        dict(
            state_dict={
                k: v for k, v in saved['state_dict'].items() if '.attention.' not in k
            }
        ),
        tmp_path / 'plain.pth',
    )
    return tmp_path


BAD = [
    ('none.pth', 'there is no such checkpoint'),
    ('text.pth', 'is not a PyTorch checkpoint'),
    ('truncated.pth', 'is truncated'),
    ('code.pth', 'holds more than weights'),
]


@pytest.mark.parametrize('name, expected', BAD)
def test_bad_checkpoint(
    message, test, train, detector, pretrained, checkpoints, name, expected
):
    bad = checkpoints / name
    for text in (
        message(test, detector, bad),
        message(train, detector, '--resume', bad),
        message(train, detector, '--cfg-options', f'load_from={bad}'),
        message(train, pretrained(bad)),
    ):
        assert f'{bad}' in text
        assert expected in text
    assert 'pass --cfg-options model.backbone.init_cfg.checkpoint=' in text


@pytest.mark.parametrize(
    'option, expected',
    [
        ('model.backbone.depth=34', 'its backbone is another one'),
        ('model.backbone.type=mmpretrain.ResNet', 'attention that the config lacks'),
        ('model.rpn_head.feat_channels=32', 'another config or for other classes'),
    ],
)
def test_checkpoint_of_another_model(
    message, test, detector, checkpoint, option, expected
):
    assert expected in message(test, detector, checkpoint, '--cfg-options', option)


def test_train_from_another_depth(message, train, detector, pretrained, checkpoint):
    depth = 'model.backbone.depth=34'
    for text in (
        message(train, pretrained(checkpoint, depth=34)),
        message(train, detector, '--resume', checkpoint, '--cfg-options', depth),
        message(train, detector, '--cfg-options', depth, f'load_from={checkpoint}'),
    ):
        assert re.search('does not fit .*depth', text)


@pytest.mark.parametrize(
    'options, expected',
    [
        ([], 'init_cfg.prefix=backbone.'),
        (
            ['model.backbone.init_cfg.prefix=backbone.', 'model.backbone.depth=34'],
            'missing (layer1.2.conv1.weight',
        ),
        (
            [
                'model.backbone.init_cfg.prefix=backbone.',
                'model.backbone.base_channels=16',
            ],
            'size mismatch (layer1.0.conv1',
        ),
    ],
)
def test_plain_backbone_from_a_checkpoint(
    message, train, detector, checkpoints, options, expected
):
    """Of which mmengine only warns."""
    assert 'plain.pth does not fit model.backbone' in (
        text := message(
            train,
            detector,
            '--cfg-options',
            'model.backbone.type=ResNet',
            'model.backbone.init_cfg.type=Pretrained',
            f'model.backbone.init_cfg.checkpoint={checkpoints}/plain.pth',
            *options,
        )
    )
    assert expected in text


def test_plain_backbone_with_parts_of_its_own(checkpoints):
    """That the checkpoint lacks the offsets of DCN is as it should be."""
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent
        / '.mim/configs/dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py'
    )
    cfg.work_dir, cfg.launcher = 'unused', 'none'
    cfg.model.backbone.init_cfg.checkpoint = f'{checkpoints}/plain.pth'
    with pytest.raises(ValueError) as e:
        check(cfg, 'train')
    assert 'there is no folder data/coco/' in str(e.value)
    assert 'does not fit' not in str(e.value)


def test_layout_of_swin(tmp_path):
    """Weights below 'model', which mmdet's and mmseg's Swin take."""
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent
        / '.mim/configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
    )
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    torch.save(dict(model=dict(a=torch.ones(1))), tmp_path / 'swin.pth')
    cfg.model.backbone.init_cfg.checkpoint = f'{tmp_path}/swin.pth'
    with pytest.raises(ValueError) as e:
        check(cfg, 'train')
    assert 'there is no folder data/coco/' in str(e.value)
    assert 'swin.pth' not in str(e.value)
    torch.save(dict(model=None), tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match='swin.pth holds no weights'):
        check(cfg, 'train')
    torch.save(dict(model=dict(a=torch.ones(1))), tmp_path / 'swin.pth')
    cfg.model.backbone.type = 'ra_mm.RAResNet'  # which does not
    with pytest.raises(ValueError, match='swin.pth holds no weights'):
        check(cfg, 'train')


def test_resume_in_an_empty_folder(message, train, detector, tmp_path):
    text = message(train, detector, '--resume')
    assert f'there is no checkpoint in {tmp_path}/work to resume' in text


def test_resume_a_plain_model_as_ra(message, train, detector, checkpoints, tmp_path):
    whole = torch.load(checkpoints / 'plain.pth', weights_only=False)
    whole.update(meta={}, message_hub={}, optimizer={})
    torch.save(whole, tmp_path / 'plain_run.pth')
    assert 'the checkpoint does not fit the model' in message(
        train, detector, '--resume', tmp_path / 'plain_run.pth'
    )


def test_options_of_the_command_line(message, train, test, detector, checkpoint):
    assert 'pass --launcher instead' in message(
        train, detector, '--cfg-options', 'launcher=pytorch'
    )
    assert '--cfg-options load_from: the checkpoint is what' in message(
        test, detector, checkpoint, '--cfg-options', 'load_from=a.pth'
    )


def test_resume_from_weights_alone(message, train, detector, checkpoints):
    assert 'cannot be resumed from' in message(
        train, detector, '--resume', checkpoints / 'plain.pth'
    )


def test_no_network(message, train, pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('no_proxy', '*')
    url = 'http://127.0.0.1:9/resnet18.pth'
    text = message(train, pretrained(url))
    assert f'{url} cannot be downloaded' in text
    assert f'put it at {tmp_path}/hub/checkpoints/resnet18.pth, or' in text
    assert 'model.backbone.init_cfg.checkpoint=FILE' in text


def test_unknown_name_of_weights(message, train, pretrained):
    assert 'for example resnet1' in message(train, pretrained('torchvision://resnet19'))


# What is no mistake


def test_plain_checkpoint_is_tested(test, configs, checkpoints, capsys):
    metrics = test(configs / 'detector.py', checkpoints / 'plain.pth')
    assert 'coco/bbox_mAP' in metrics
    assert 'has no reverse attention' in capsys.readouterr().err
    rival = 'model.backbone.attention.type=ra_mm.SE'
    with pytest.raises(SystemExit):
        test(configs / 'detector.py', checkpoints / 'plain.pth', '--cfg-options', rival)
    assert 'does not fit' in capsys.readouterr().err


def test_start_from_a_checkpoint(train, configs, checkpoints, capsys):
    """Its backbone is needed, even without attention; heads may be new."""
    train(
        configs / 'detector.py',
        '--cfg-options',
        f'load_from={checkpoints}/plain.pth',
        'model.rpn_head.feat_channels=32',
    )
    assert 'does not fit' not in capsys.readouterr().err


@pytest.mark.parametrize(
    'bug, kind',
    [
        (lambda: torch.ones(2, 3) @ torch.ones(4, 2), RuntimeError),
        (lambda: {}['my_key'], KeyError),
    ],
)
def test_bug_like_a_mistake_keeps_its_traceback(bug, kind):

    def _save_best_checkpoint():
        bug()

    with pytest.raises(kind):
        with report_user_errors('tool'):
            _save_best_checkpoint()


def test_bug_keeps_its_traceback(monkeypatch):

    def run_iter():  # as mmengine's loops call it
        raise ValueError('a bug')

    with pytest.raises(ValueError), report_user_errors('tools/train.py'):
        run_iter()
    with pytest.raises(RuntimeError), report_user_errors('tools/train.py'):
        raise RuntimeError
    monkeypatch.setenv('RA_MM_TRACEBACK', '1')
    with pytest.raises(ValueError), report_user_errors('tools/train.py'):
        raise ValueError
