"""tools/visualize_gates.py: numbers against the equations, pictures, mistakes."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from ra_mm.layers import ReverseAttention
from ra_mm.models import build_model

ALL = ['RA_2_1', 'RA_2_2', 'RA_3_1', 'RA_3_2', 'RA_4_1', 'RA_4_2', 'RA_5_1', 'RA_5_2']
MOBILENET = """
_base_ = '{configs}/classifier.py'
model = dict(
    backbone=dict(
        _delete_=True, type='ra_mm.RAMobileNetV2', widen_factor=0.5),
    head=dict(in_channels=1280))
"""


def build(config):
    """The model of a config with random gamma, and temp = 2.5."""
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config)).eval()
    for layer in model.modules():
        if isinstance(layer, ReverseAttention):
            layer.gate.gamma.data.normal_()
            layer.gate.temp.fill_(2.5)
    return model


@pytest.fixture(scope='module')
def saved(configs, tmp_path_factory):
    """Models and their checkpoints, by the name of the config."""
    folder = tmp_path_factory.mktemp('saved')
    (configs / 'mobilenet.py').write_text(MOBILENET.format(configs=configs))
    models = {}
    for name in ('classifier', 'detector', 'segmenter', 'mobilenet'):
        models[name] = build(configs / f'{name}.py'), folder / f'{name}.pth'
        model, path = models[name]
        torch.save(dict(state_dict=model.state_dict()), path)
    return models


@pytest.fixture(scope='session')
def images(shapes):
    """A folder with one folder of images per class."""
    return shapes / 'classes/val'


@pytest.fixture
def run(tool, configs, saved, images, tmp_path, capsys):
    """Run the tool and return the content of gates.json and the output."""

    def call(name, *argv, images=images, checkpoint=None):
        out = tmp_path / 'out'
        tool('visualize_gates')(
            configs / f'{name}.py',
            checkpoint or saved[name][1],
            images,
            '--out',
            out,
            '--device',
            'cpu',
            *argv,
        )
        return json.loads((out / 'gates.json').read_text()), capsys.readouterr()

    return call


@pytest.fixture
def fails(tool, message, configs, saved, images, tmp_path):
    """Run the tool on wrong input; check that it writes nothing; return its message."""

    def call(config='classifier.py', checkpoint=None, images=images, argv=()):
        checkpoint = checkpoint or saved['classifier'][1]
        text = message(
            tool('visualize_gates'),
            configs / config,
            checkpoint,
            images,
            '--out',
            tmp_path / 'out',
            *argv,
        )
        assert not (tmp_path / 'out').exists()
        return text

    return call


def prepare(path, size=None, multiple=1):
    """The input of the backbone, prepared without the toolboxes."""
    image = cv2.imread(str(path))
    if size:
        image = cv2.resize(image, size)
    image = (image[..., ::-1] - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
    height, width = (-(-n // multiple) * multiple for n in image.shape[:2])
    padded = np.zeros((height, width, 3))
    padded[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float()


def gates_by_hand(model, inputs, layer):
    """G of one block for one image, by Eqs. 3, 5 and 8."""
    found = []
    handle = layer.register_forward_pre_hook(
        lambda layer, args: found.append(args[0][0].detach().double())
    )
    model.backbone(inputs)
    handle.remove()
    (F,) = found
    norm = F.square().sum(dim=(1, 2)).sqrt()
    N = norm / (norm.mean() + 1e-6)
    return (1 + layer.gate.gamma.detach().double() * N / 2.5).numpy()


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
def test_numbers(run, saved, images, name, argv, how):
    numbers, printed = run(name, '--blocks', 'RA_3_1', 'RA_5_2', *argv)
    model, _ = saved[name]
    folders = sorted(images.iterdir())
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


def test_mobilenet(run, saved, images):
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
    path = sorted((images / 'star').iterdir())[0]
    np.testing.assert_allclose(
        numbers['blocks']['RA_7_3']['G']['star'],
        gates_by_hand(model, prepare(path), model.backbone.layer6[2].attention),
        rtol=1e-4,
    )


def test_pictures_and_choice(run, tmp_path, shapes):
    """Four complete files, of the requested classes, number and image."""
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
    """An untrained model: G is 1 for every image."""
    model = build_model(Config.fromfile(configs / 'classifier.py'))
    torch.save(model.state_dict(), tmp_path / 'new.pth')
    numbers, _ = run('classifier', checkpoint=tmp_path / 'new.pth')
    assert numbers['temp'] == 1
    for block in numbers['blocks'].values():
        assert block['mean'] == 1 and block['spread'] == 0
        for G in block.get('G', {}).values():
            assert set(G) == {1.0}


def test_kinds_of_images(run, saved, tmp_path):
    """Alpha channels, grey-scale, other sizes and formats; other files are skipped."""
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
    # No images of a class:
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


def test_work_dir(tool, configs, saved, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool('visualize_gates')(
        configs / 'classifier.py', saved['classifier'][1], images, '--max-images', 1
    )
    assert (tmp_path / 'work_dirs/classifier/gates/gates.json').is_file()


def test_old_names_of_weights(run, saved, tmp_path):
    """Checkpoints from before the gates were modules have the same gates."""
    model, _ = saved['classifier']
    weights = {
        key.replace('.attention.gate.', '.attention.'): value
        for key, value in model.state_dict().items()
    }
    torch.save(weights, tmp_path / 'old.pth')
    argv = '--max-images', 1
    old, _ = run('classifier', *argv, checkpoint=tmp_path / 'old.pth')
    new, _ = run('classifier', *argv)
    assert old == new


# Mistakes


@pytest.mark.parametrize(
    'argv, named',
    [
        (['--blocks', 'RA_2_1', 'RA_2_3'], f'RA_2_3: the model has {", ".join(ALL)}'),
        (['--classes', 'star', 'moon'], 'class moon'),
        (['--device', 'nvidia'], '--device nvidia: Expected one of cpu, cuda'),
        (['--image', 'none.png'], 'none.png'),
        (
            ['--cfg-options', 'model.backbone.depth=34'],
            'backbone.layer1.2.conv1.weight',
        ),
        (['--cfg-options', 'model.head.num_classes=5'], 'head.fc'),
        (
            ['--cfg-options', 'model.backbone.type=mmpretrain.ResNet'],
            'ResNet has no reverse attention',
        ),
        (
            ['--cfg-options', 'model.backbone.attention.type=ra_mm.SE'],
            'RAResNet has no reverse attention',
        ),
        (['--cfg-options', 'test_dataloader=None'], 'test_dataloader'),
    ],
)
def test_mistakes(fails, argv, named):
    assert named in fails(argv=argv)


def test_number_of_images(tool, message):
    argv = ('a.py', 'a.pth', 'images', '--max-images', '0')
    assert '--max-images 0' in message(tool('visualize_gates'), *argv, status=2)


def test_missing_files(fails, images, tmp_path):
    assert 'none.py' in fails(config='none.py')
    assert 'none.pth' in fails(checkpoint='none.pth')
    assert 'none has no folders' in fails(images='none')
    assert 'star has no folders' in fails(images=images / 'star')
    (tmp_path / 'star').mkdir()
    assert 'star has no images (.jpg,' in fails(images=tmp_path)


def test_other_checkpoints(fails, saved, tmp_path):
    """From a plain model, from another model, and a text file."""
    (model, _), plain = saved['classifier'], tmp_path / 'plain.pth'
    torch.save(
        {k: v for k, v in model.state_dict().items() if 'attention' not in k}, plain
    )
    assert f'{plain} was trained without reverse attention' in fails(checkpoint=plain)
    assert 'does not fit the model' in fails(checkpoint=saved['mobilenet'][1])
    (tmp_path / 'text.pth').write_text('text')
    assert 'text.pth' in fails(checkpoint=tmp_path / 'text.pth')


@pytest.mark.parametrize(
    'spoil',
    [
        lambda content: content[: len(content) // 2],
        lambda content: b'no image',
        lambda content: b'',
    ],
)
def test_broken_image(fails, images, tmp_path, spoil):
    """Its path is named, and nothing is written for the intact one before it."""
    intact = sorted((images / 'star').iterdir())[0].read_bytes()
    (tmp_path / 'in/star').mkdir(parents=True)
    (tmp_path / 'in/star/a.jpg').write_bytes(intact)
    (tmp_path / 'in/star/b.jpg').write_bytes(spoil(intact))
    assert 'star/b.jpg' in fails(images=tmp_path / 'in')


def test_weights_that_diverged(fails, saved, tmp_path):
    model, _ = saved['classifier']
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights['backbone.layer3.0.attention.gate.gamma'].fill_(3e38)
    torch.save(weights, tmp_path / 'diverged.pth')
    assert 'RA_4_1: G is not finite' in fails(checkpoint=tmp_path / 'diverged.pth')
