"""Wrong input for tools/visualize_gates.py ends in one message, and writes nothing."""

import pytest
import torch

ALL = ['RA_2_1', 'RA_2_2', 'RA_3_1', 'RA_3_2', 'RA_4_1', 'RA_4_2', 'RA_5_1', 'RA_5_2']


@pytest.fixture
def fails(tool, message, configs, saved_models, images, tmp_path):
    """Run the tool on wrong input; check that it writes nothing; return its message."""

    def call(config='classifier.py', checkpoint=None, images=images, argv=()):
        checkpoint = checkpoint or saved_models['classifier'][1]
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
    assert '--max-images: 0' in message(tool('visualize_gates'), *argv, status=2)


def test_missing_files(fails, images, tmp_path):
    assert 'none.py' in fails(config='none.py')
    assert 'none.pth' in fails(checkpoint='none.pth')
    assert 'none has no folders' in fails(images='none')
    assert 'star has no folders' in fails(images=images / 'star')
    (tmp_path / 'star').mkdir()
    assert 'star has no images (.jpg,' in fails(images=tmp_path)


def test_other_checkpoints(fails, saved_models, tmp_path):
    """From a plain model, from another model, and a text file."""
    (model, _), plain = saved_models['classifier'], tmp_path / 'plain.pth'
    torch.save(
        {k: v for k, v in model.state_dict().items() if 'attention' not in k}, plain
    )
    assert f'{plain} was trained without reverse attention' in fails(checkpoint=plain)
    assert 'does not fit the model' in fails(checkpoint=saved_models['mobilenet'][1])
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


def test_weights_that_diverged(fails, saved_models, tmp_path):
    model, _ = saved_models['classifier']
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights['backbone.layer3.0.attention.gate.gamma'].fill_(3e38)
    torch.save(weights, tmp_path / 'diverged.pth')
    assert 'RA_4_1: G is not finite' in fails(checkpoint=tmp_path / 'diverged.pth')
