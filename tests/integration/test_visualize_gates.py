"""tools/visualize_gates.py: numbers against the equations, and pictures."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from ra_mm.models import build_model

ALL = ['RA_2_1', 'RA_2_2', 'RA_3_1', 'RA_3_2', 'RA_4_1', 'RA_4_2', 'RA_5_1', 'RA_5_2']


@pytest.fixture
def run(tool, configs, saved_models, images, tmp_path, capsys):
    """Run the tool and return the content of gates.json and the output."""

    def call(name, *argv, images=images, checkpoint=None):
        out = tmp_path / 'out'
        tool('visualize_gates')(
            configs / f'{name}.py',
            checkpoint or saved_models[name][1],
            images,
            '--out',
            out,
            '--device',
            'cpu',
            *argv,
        )
        return json.loads((out / 'gates.json').read_text()), capsys.readouterr()

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
def test_numbers(run, saved_models, images, name, argv, how):
    numbers, printed = run(name, '--blocks', 'RA_3_1', 'RA_5_2', *argv)
    model, _ = saved_models[name]
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


def test_mobilenet(run, saved_models, images):
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
    model, _ = saved_models['mobilenet']
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


def test_gamma_0(run, configs, saved_models, tmp_path):
    """An untrained model: G is 1 for every image."""
    model = build_model(Config.fromfile(configs / 'classifier.py'))
    torch.save(model.state_dict(), tmp_path / 'new.pth')
    numbers, _ = run('classifier', checkpoint=tmp_path / 'new.pth')
    assert numbers['temp'] == 1
    for block in numbers['blocks'].values():
        assert block['mean'] == 1 and block['spread'] == 0
        for G in block.get('G', {}).values():
            assert set(G) == {1.0}


def test_kinds_of_images(run, saved_models, tmp_path):
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


def test_work_dir(tool, configs, saved_models, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool('visualize_gates')(
        configs / 'classifier.py',
        saved_models['classifier'][1],
        images,
        '--max-images',
        1,
    )
    assert (tmp_path / 'work_dirs/classifier/gates/gates.json').is_file()


def test_old_names_of_weights(run, saved_models, tmp_path):
    """Checkpoints from before the gates were modules have the same gates."""
    model, _ = saved_models['classifier']
    weights = {
        key.replace('.attention.gate.', '.attention.'): value
        for key, value in model.state_dict().items()
    }
    torch.save(weights, tmp_path / 'old.pth')
    argv = '--max-images', 1
    old, _ = run('classifier', *argv, checkpoint=tmp_path / 'old.pth')
    new, _ = run('classifier', *argv)
    assert old == new
