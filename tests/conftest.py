import os

# Before torch is imported, here and in the tools that the tests start: small
# tensors gain nothing from more threads and lose much on a busy machine.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest  # noqa: E402

from ra_mm.datasets.shapes import write_shapes  # noqa: E402


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
