"""Channels and range of pixels, from the loader to the backbone."""

import pytest


@pytest.mark.parametrize('name', ['detector', 'segmenter', 'classifier'])
@pytest.mark.parametrize('mode', ['train', 'test'])
def test_nothing_is_wrong(found, name, mode):
    assert found(name, mode=mode) == ([], [])


STEP = 'train_dataloader.dataset.pipeline.0.color_type'


@pytest.mark.parametrize(
    'name, options, advice',
    [
        ('detector', {STEP: 'grayscale'}, f'{STEP}=color'),
        ('segmenter', {'model.backbone.in_channels': 1}, f'{STEP}=grayscale'),
        ('segmenter', {'model.backbone.in_channels': 4}, 'model.backbone.in_channels=3'),
        ('segmenter', {'model.data_preprocessor.mean': [1, 1]}, 'mean=[123.675'),
    ],
)  # fmt: skip
def test_channels(found, name, options, advice):
    if 'mean=' in advice:
        options['model.data_preprocessor.std'] = [1, 1]
    if 'grayscale' in advice:
        options['model.data_preprocessor.mean'] = [1]
    problems, _ = found(name, options)
    assert advice in problems[0]


def test_means_for_pixels_up_to_1(found):
    key = 'model.data_preprocessor'
    options = {f'{key}.mean': [0.5, 0.4, 0.4], f'{key}.std': [0.2, 0.2, 0.2]}
    problems, (warning,) = found('segmenter', options)
    assert not problems and f'{key}.mean=[127.5,102.0,102.0]' in warning
    assert f'{key}.std=[51.0,51.0,51.0]' in warning
