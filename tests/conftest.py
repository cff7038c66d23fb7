import pytest

from ra_mm.datasets.shapes import write_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A folder of drawn shapes: 16 + 8 images of 64x64, 4 + 2 a class."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(
        folder,
        num_train=16,
        num_val=8,
        image_size=64,
        classes_train=4,
        classes_val=2)
    return folder
