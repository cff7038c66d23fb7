"""Test-time augmentation and pictures of wrapped and concatenated test sets."""

import pytest

WRAPPED = """
_base_ = '{}'
dataset = {{{{_base_.test_dataloader.dataset}}}}
test_dataloader = dict(dataset=dict(_delete_=True, {}))
"""
WRAPPERS = dict(
    concatenated="type='ConcatDataset', datasets=[dataset]",
    repeated="type='RepeatDataset', times=1, dataset=dataset",
    twice="type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=1, "
    'dataset=dataset)]',
)


@pytest.fixture
def wrapped(configs, tmp_path):
    """One of the small configs with its test set in a wrapper."""

    def write(name, wrapper):
        path = tmp_path / f'{name}_{wrapper}.py'
        path.write_text(WRAPPED.format(configs / f'{name}.py', WRAPPERS[wrapper]))
        return path

    return write


@pytest.mark.parametrize('wrapper', WRAPPERS)
@pytest.mark.parametrize('flags', [[], ['--tta']], ids=['plain', 'tta'])
def test_detector(test, wrapped, configs, checkpoint, tmp_path, wrapper, flags):
    """Metrics as without the wrapper, and as many pictures as images."""
    flags = [*flags, '--show-dir', tmp_path / 'pictures']
    flags += ['--cfg-options', f'visualizer.name={wrapper}']
    metrics = test(wrapped('detector', wrapper), checkpoint, *flags)
    assert len(list((tmp_path / 'pictures').rglob('*.jpg'))) == 8
    assert metrics == test(configs / 'detector.py', checkpoint, *flags[:-4])


def test_classifier(train, test, wrapped, tmp_path):
    config = wrapped('classifier', 'twice')
    train(config)
    checkpoint = tmp_path / 'work/epoch_1.pth'
    assert test(config, checkpoint, '--tta')
    test(config, checkpoint, '--show-dir', tmp_path / 'pictures')
    assert list((tmp_path / 'pictures').rglob('*.png'))
    (log,) = sorted((tmp_path / 'work').glob('*/*.log'))[-1:]
    assert '8 images in several folders have only 2 names' in log.read_text()
