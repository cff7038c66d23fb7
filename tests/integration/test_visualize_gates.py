"""Fig. 5 by the tool: its numbers by hand, its pictures, its refusals."""

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from ra_mm.layers import ReverseAttention

REPO = Path(__file__).parents[2]

spec = importlib.util.spec_from_file_location(
    'visualize_gates', REPO / 'tools/visualize_gates.py'
)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

ALL = ['RA_2_1', 'RA_2_2', 'RA_3_1', 'RA_3_2', 'RA_4_1', 'RA_4_2', 'RA_5_1', 'RA_5_2']
MOBILENET = """
_base_ = '{configs}/classifier.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ra_mm.RAMobileNetV2', widen_factor=0.5),
    head=dict(in_channels=1280))
"""


def build(config):
    """The model of a config with any gamma, and temp = 2.5."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    for layer in model.modules():
        if isinstance(layer, ReverseAttention):
            layer.gamma.data.normal_()
            layer.temp.fill_(2.5)
    return model


@pytest.fixture(scope='module')
def saved(configs, tmp_path_factory):
    """Models by the name of their config, and their checkpoints."""
    folder = tmp_path_factory.mktemp('saved')
    (configs / 'mobilenet.py').write_text(MOBILENET.format(configs=configs))
    models = {}
    for name in ('classifier', 'detector', 'segmenter', 'mobilenet'):
        models[name] = build(configs / f'{name}.py'), folder / f'{name}.pth'
        model, path = models[name]
        torch.save(dict(state_dict=model.state_dict()), path)
    return models


@pytest.fixture
def run(configs, saved, shapes, tmp_path, capsys):
    """The tool, which returns the numbers and what it printed."""

    def call(name, *argv, images=shapes / 'classes/val', checkpoint=None):
        out = tmp_path / 'out'
        tool.main(
            [
                str(a)
                for a in (
                    configs / f'{name}.py',
                    checkpoint or saved[name][1],
                    images,
                    '--out',
                    out,
                    '--device',
                    'cpu',
                    *argv,
                )
            ]
        )
        with open(out / 'gates.json') as f:
            return json.load(f), capsys.readouterr()

    return call


@pytest.fixture
def message(configs, saved, shapes, capsys):
    """Run what must stop, and return its one message."""

    def call(*argv, status=1):
        with pytest.raises(SystemExit) as stop:
            tool.main([str(a) for a in argv])
        errors = capsys.readouterr().err
        assert stop.value.code == status
        assert 'Traceback' not in errors
        _, found, text = errors.partition('tools/visualize_gates.py: error: ')
        assert found, errors
        return text

    return call


def prepare(path, size=None, multiple=1):
    """What the backbone gets, without the toolboxes."""
    image = cv2.imread(str(path))
    if size:
        image = cv2.resize(image, size)
    image = (image[..., ::-1] - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
    height, width = (-(-n // multiple) * multiple for n in image.shape[:2])
    padded = np.zeros((height, width, 3))
    padded[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float()


def gates_by_hand(model, inputs, layer):
    """G of one image in one block, by Eqs. 3, 5 and 8."""
    found = []
    handle = layer.register_forward_pre_hook(
        lambda layer, args: found.append(args[0][0].detach().double())
    )
    model.backbone(inputs)
    handle.remove()
    (F,) = found
    norm = F.square().sum(dim=(1, 2)).sqrt()
    N = norm / (norm.mean() + 1e-6)
    return (1 + layer.gamma.detach().double() * N / 2.5).numpy()


@pytest.mark.parametrize(
    'name, argv, how',
    [
        ('classifier', [], {}),
        (
            'detector',
            ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(100,70)'],
            dict(size=(100, 70), multiple=32),
        ),
        ('segmenter', [], dict(size=(128, 128))),
    ],
)
def test_numbers(run, saved, shapes, name, argv, how):
    numbers, printed = run(name, '--blocks', 'RA_3_1', 'RA_5_2', *argv)
    model, _ = saved[name]
    folders = sorted((shapes / 'classes/val').iterdir())
    assert numbers['temp'] == 2.5
    assert numbers['classes'] == [folder.name for folder in folders]
    assert list(numbers['blocks']) == ALL
    for block, layer in (
        ('RA_3_1', model.backbone.layer2[0].attention),
        ('RA_5_2', model.backbone.layer4[1].attention),
    ):
        everything = []
        for folder in folders:
            paths = sorted(folder.iterdir())
            assert numbers['images'][folder.name] == len(paths)
            G = [gates_by_hand(model, prepare(path, **how), layer) for path in paths]
            everything += G
            np.testing.assert_allclose(
                numbers['blocks'][block]['G'][folder.name],
                np.mean(G, axis=0),
                rtol=1e-4,
            )
        np.testing.assert_allclose(
            numbers['blocks'][block]['spread'],
            np.mean(everything, axis=0).std(),
            rtol=1e-4,
        )
    assert [k for k, v in numbers['blocks'].items() if 'G' in v] == ['RA_3_1', 'RA_5_2']
    assert f'The strip shows {sorted(folders[0].iterdir())[0]}' in printed.out


def test_mobilenet(run, saved, shapes):
    numbers, _ = run('mobilenet', '--max-images', '1')
    assert list(numbers['blocks']) == [
        'RA_3_2',
        'RA_4_2',
        'RA_4_3',
        'RA_5_2',
        'RA_5_3',
        'RA_5_4',
        'RA_6_2',
        'RA_6_3',
        'RA_7_2',
        'RA_7_3',
    ]
    model, _ = saved['mobilenet']
    path = sorted((shapes / 'classes/val/star').iterdir())[0]
    np.testing.assert_allclose(
        numbers['blocks']['RA_7_3']['G']['star'],
        gates_by_hand(model, prepare(path), model.backbone.layer6[2].attention),
        rtol=1e-4,
    )


def test_pictures_and_choice(run, tmp_path, shapes):
    """Four whole files, of the images that were asked for."""
    image = sorted((shapes / 'images/val').iterdir())[0]
    numbers, printed = run(
        'classifier',
        '--classes',
        'star',
        'circle',
        '--max-images',
        '1',
        '--image',
        image,
    )
    assert numbers['images'] == dict(star=1, circle=1)
    assert '2/2' in printed.err or '100%' in printed.err
    assert f'The strip shows {image}' in printed.out
    out = tmp_path / 'out'
    assert sorted(os.listdir(out)) == [
        'gates.json',
        'gates.png',
        'spread.png',
        'strip.png',
    ]
    for name in os.listdir(out):
        assert str(out / name) in printed.out
        if name.endswith('.png'):
            with Image.open(out / name) as picture:
                assert np.asarray(picture.convert('L')).std() > 5


def test_gamma_0(run, configs, saved, tmp_path):
    """An untrained model: G is 1, whatever the image."""
    cfg = Config.fromfile(configs / 'classifier.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    torch.save(model.state_dict(), tmp_path / 'new.pth')
    numbers, _ = run('classifier', checkpoint=tmp_path / 'new.pth')
    assert numbers['temp'] == 1
    for block in numbers['blocks'].values():
        assert block['mean'] == 1 and block['spread'] == 0
        for G in block.get('G', {}).values():
            assert set(G) == {1.0}


def test_kinds_of_images(run, saved, tmp_path):
    """Alpha, grey-scale, another size and format: as OpenCV's colours."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)
    grey = rng.integers(0, 255, (33, 47), dtype=np.uint8)
    images = dict(
        rgb=('a.png', pixels),
        alpha=(
            'a.PNG',
            np.dstack([pixels, rng.integers(0, 255, (40, 56), dtype=np.uint8)]),
        ),
        bmp=('a.bmp', pixels),
        grey=('a.png', grey),
        three=('a.tif', np.dstack([grey] * 3)),
    )
    for folder, (name, array) in images.items():
        (tmp_path / 'images' / folder).mkdir(parents=True)
        Image.fromarray(array).save(tmp_path / 'images' / folder / name)
    (tmp_path / 'images/both').mkdir()
    Image.fromarray(pixels).save(tmp_path / 'images/both/a.png')
    Image.fromarray(grey).save(tmp_path / 'images/both/b.png')
    # What is no image of a class:
    (tmp_path / 'images/notes.txt').write_text('')
    (tmp_path / 'images/both/notes.txt').write_text('')
    (tmp_path / 'images/both/._b.png').write_text('')
    (tmp_path / 'images/.cache').mkdir()

    numbers, _ = run('classifier', images=tmp_path / 'images')
    assert numbers['images'] == dict(alpha=1, bmp=1, both=2, grey=1, rgb=1, three=1)
    G = {k: np.array(v) for k, v in numbers['blocks']['RA_2_2']['G'].items()}
    assert (G['rgb'] == G['alpha']).all() and (G['rgb'] == G['bmp']).all()
    assert (G['grey'] == G['three']).all()
    assert abs(G['grey'] - G['rgb']).max() > 1e-3
    np.testing.assert_allclose(G['both'], (G['rgb'] + G['grey']) / 2, atol=2e-6)


def test_work_dir(configs, saved, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool.main(
        [
            str(configs / 'classifier.py'),
            str(saved['classifier'][1]),
            str(shapes / 'classes/val'),
            '--max-images',
            '1',
        ]
    )
    assert (tmp_path / 'work_dirs/classifier/gates/gates.json').is_file()


# Mistakes


@pytest.mark.parametrize(
    'argv, expected',
    [
        (
            ['--blocks', 'RA_2_1', 'RA_2_3'],
            f'there is no block RA_2_3: the model has {", ".join(ALL)}',
        ),
        (['--classes', 'star', 'moon'], 'val, but (circle, square, star, triang'),
        (['--device', 'nvidia'], '--device nvidia: Expected one of cpu, cuda'),
        (['--image', 'none.png'], 'none.png cannot be read'),
        (['--cfg-options', 'model.backbone.depth=34'], 'its backbone is another'),
        (['--cfg-options', 'model.head.num_classes=5'], 'for other classes'),
        (
            ['--cfg-options', 'model.backbone.type=mmpretrain.ResNet'],
            'ResNet has no reverse attention, so there are no gates to look at',
        ),
        (
            ['--cfg-options', 'model.backbone.attention.type=ra_mm.SE'],
            'RAResNet has no reverse attention',
        ),
        (['--cfg-options', 'test_dataloader=None'], 'has no test_dataloader'),
    ],
)
def test_mistakes(message, configs, saved, shapes, tmp_path, argv, expected):
    text = message(
        configs / 'classifier.py',
        saved['classifier'][1],
        shapes / 'classes/val',
        '--out',
        tmp_path,
        *argv,
    )
    assert expected in text
    assert len(text.splitlines()) == 1
    assert not os.listdir(tmp_path)


def test_number_of_images(message):
    assert '--max-images 0: expected 1 or more' in message(
        'a.py', 'a.pth', 'images', '--max-images', '0', status=2
    )


def test_missing_files(message, configs, saved, shapes, tmp_path):
    config, (_, checkpoint) = configs / 'classifier.py', saved['classifier']
    images = shapes / 'classes/val'
    assert 'no such config' in message('none.py', checkpoint, images)
    assert 'no such checkpoint' in message(config, 'none.pth', images)
    assert 'none has no folders' in message(config, checkpoint, 'none')
    assert 'star has no folders' in message(config, checkpoint, images / 'star')
    (tmp_path / 'star').mkdir()
    assert 'star has no images (.jpg,' in message(config, checkpoint, tmp_path)


def test_other_checkpoints(message, configs, saved, shapes, tmp_path):
    """Of a plain model, or no model at all."""
    config, images = configs / 'classifier.py', shapes / 'classes/val'
    (model, _), plain = saved['classifier'], tmp_path / 'plain.pth'
    torch.save(
        {k: v for k, v in model.state_dict().items() if 'attention' not in k}, plain
    )
    assert f'{plain} was trained without reverse attention' in message(
        config, plain, images
    )
    assert 'does not fit the model' in message(config, saved['mobilenet'][1], images)
    (tmp_path / 'text.pth').write_text('text')
    assert 'is not a PyTorch checkpoint' in message(
        config, tmp_path / 'text.pth', images
    )


@pytest.mark.parametrize(
    'spoil',
    [
        lambda content: content[: len(content) // 2],
        lambda content: b'no image',
        lambda content: b'',
    ],
)
def test_broken_image(message, configs, saved, shapes, tmp_path, spoil):
    """Found among whole ones, named, and nothing is written."""
    whole = sorted((shapes / 'classes/val/star').iterdir())[0].read_bytes()
    (tmp_path / 'in/star').mkdir(parents=True)
    (tmp_path / 'in/star/a.jpg').write_bytes(whole)
    (tmp_path / 'in/star/b.jpg').write_bytes(spoil(whole))
    text = message(
        configs / 'classifier.py',
        saved['classifier'][1],
        tmp_path / 'in',
        '--out',
        tmp_path / 'out',
    )
    assert 'star/b.jpg cannot be read' in text
    assert not (tmp_path / 'out').exists()


def test_weights_that_diverged(message, configs, saved, shapes, tmp_path):
    model, _ = saved['classifier']
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights['backbone.layer3.0.attention.gamma'].fill_(3e38)
    torch.save(weights, tmp_path / 'diverged.pth')
    assert 'RA_4_1: G is not finite' in message(
        configs / 'classifier.py',
        tmp_path / 'diverged.pth',
        shapes / 'classes/val',
        '--out',
        tmp_path / 'out',
    )
