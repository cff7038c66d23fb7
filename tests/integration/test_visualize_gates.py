"""tools/visualize_gates.py: the images that it measures, and pictures."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ra_mm.analysis import gates


@pytest.fixture
def run(tool, configs, saved_models, images, tmp_path, capsys):
    """Run the tool and return the content of gates.json and the output."""

    def call(name, *argv):
        out = tmp_path / 'out'
        positional = configs / f'{name}.py', saved_models[name][1], images
        options = '--out', out, '--device', 'cpu'
        tool('visualize_gates')(*positional, *options, *argv)
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
    chosen = ['RA_3_1', 'RA_5_2']
    numbers, printed = run(name, '--blocks', *chosen, *argv)
    model, _ = saved_models[name]
    paths = sorted(images.glob('*/*'))
    prepared = [(path.parent.name, prepare(path, **how)) for path in paths]
    expected = gates.measure_gates(model.backbone, prepared, chosen)
    assert numbers['images'] == expected['images'] and numbers['temp'] == 2.5
    for block, values in expected['blocks'].items():
        assert numbers['blocks'][block]['spread'] == pytest.approx(
            values['spread'], rel=1e-4
        )
        for label, G in values.get('G', {}).items():
            found = numbers['blocks'][block]['G'][label]
            np.testing.assert_allclose(found, G, rtol=1e-4, atol=1e-6)  # is rounded
    assert f'The strip shows {paths[0]}' in printed.out


def test_pictures_and_choice(run, tmp_path, shapes):
    """Four complete files, of the requested classes, number and image."""
    image = sorted((shapes / 'images/val').iterdir())[0]
    argv = '--classes star circle --max-images 1 --image'.split()
    numbers, printed = run('classifier', *argv, image)
    assert numbers['images'] == dict(star=1, circle=1)
    assert '2/2' in printed.err or '100%' in printed.err
    assert f'The strip shows {image}' in printed.out
    out = tmp_path / 'out'
    names = ['gates.json', 'gates.png', 'spread.png', 'strip.png']
    assert sorted(os.listdir(out)) == names
    for name in os.listdir(out):
        assert str(out / name) in printed.out
        if name.endswith('.png'):
            with Image.open(out / name) as picture:
                assert np.asarray(picture.convert('L')).std() > 5


def test_work_dir(tool, configs, saved_models, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = configs / 'classifier.py', saved_models['classifier'][1], images
    tool('visualize_gates')(*argv, '--max-images', 1)
    assert (tmp_path / 'work_dirs/classifier/gates/gates.json').is_file()


@pytest.fixture
def fails(tool, message, configs, saved_models, images, tmp_path):
    """Run the tool on wrong input; check that it writes nothing; return its message."""

    def call(checkpoint=None, images=images, argv=()):
        checkpoint = checkpoint or saved_models['classifier'][1]
        options = '--out', tmp_path / 'out', *argv
        positional = configs / 'classifier.py', checkpoint, images
        text = message(tool('visualize_gates'), *positional, *options)
        assert not (tmp_path / 'out').exists()
        return text

    return call


@pytest.mark.parametrize(
    'argv, named',
    [
        (['--device', 'nvidia'], '--device nvidia: Expected one of cpu, cuda'),
        (['--image', 'none.png'], 'none.png'),
        (
            ['--cfg-options', 'model.backbone.type=mmpretrain.ResNet'],
            'ResNet has no reverse attention',
        ),
    ],
)
def test_mistakes(fails, argv, named):
    assert named in fails(argv=argv)


def test_weights_without_gates(fails, saved_models, tmp_path):
    (model, _), plain = saved_models['classifier'], tmp_path / 'plain.pth'
    torch.save(
        {k: v for k, v in model.state_dict().items() if 'attention' not in k}, plain
    )
    assert f'{plain} was trained without reverse attention' in fails(checkpoint=plain)


def test_broken_image(fails, images, tmp_path):
    """Its path is named, and nothing is written for the intact one before it."""
    intact = sorted((images / 'star').iterdir())[0].read_bytes()
    (tmp_path / 'in/star').mkdir(parents=True)
    (tmp_path / 'in/star/a.jpg').write_bytes(intact)
    (tmp_path / 'in/star/b.jpg').write_bytes(intact[: len(intact) // 2])
    assert 'star/b.jpg' in fails(images=tmp_path / 'in')
