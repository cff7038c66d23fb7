"""The range of pixels that a config normalizes; small configs without faults."""

import pytest


@pytest.mark.parametrize('name', ['detector', 'segmenter', 'classifier'])
@pytest.mark.parametrize('mode', ['train', 'test'])
def test_nothing_is_wrong(found, name, mode):
    assert found(name, mode=mode) == ([], [])


def test_images_that_are_normalized_twice(load, check):
    cfg = load('detector')
    cfg.train_dataloader.dataset.pipeline.append(dict(type='Normalize'))
    (text,) = [text for text in check(cfg, 'data') if 'has Normalize' in text]
    assert text.startswith('train_dataloader.dataset.pipeline')


def test_means_for_pixels_up_to_1(found):
    key = 'model.data_preprocessor'
    options = {f'{key}.mean': [0.5, 0.4, 0.4], f'{key}.std': [0.2, 0.2, 0.2]}
    problems, (warning,) = found('segmenter', options)
    assert not problems and f'{key}.mean=[127.5,102.0,102.0]' in warning
    assert f'{key}.std=[51.0,51.0,51.0]' in warning
