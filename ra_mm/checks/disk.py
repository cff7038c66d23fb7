"""Images and masks as they are stored, before a pipeline changes them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ra_mm.engine.samples import describe_mask_shape
from ra_mm.errors import describe

ORIENTATION = 0x0112  # the EXIF tag
SMALL = (np.bool_, np.uint8)


@dataclass
class StoredImage:
    """The header of an image file, and whether all of it can be decoded."""

    size: tuple[int, int]  # width and height of the stored pixels
    orientation: int  # of EXIF, 1 for upright
    has_16_bits: bool = False
    problem: str | None = None


def read_image(path: str) -> StoredImage | None:
    """Read an image with Pillow, or return None if it does not know the format."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
            stored = StoredImage(image.size, orientation, image.mode.startswith('I'))
            try:
                image.load()  # OpenCV fills what is missing with grey
            except (OSError, SyntaxError, ValueError) as e:
                stored.problem = describe(e)
            return stored
    except (OSError, Image.DecompressionBombError):
        return None


def read_mask(
    path: str, loaded: np.ndarray, image_shape: tuple | None
) -> tuple[Counter | None, str | None]:
    """Count the pixels of a mask by stored and loaded value.

    Args:
        path: The mask file.
        loaded: What the pipeline made of it.
        image_shape: Height and width of the image.

    Returns:
        tuple: The counts by (stored value, loaded value), or None if they
        cannot be compared; and what is wrong with the file, or None.
    """
    stored = loaded
    try:
        with Image.open(path) as image:
            if image.format == 'JPEG':
                return None, 'it is a JPEG, which changes values: save masks as PNG'
            stored = np.array(image)
            if stored.ndim == 3:
                found = f'{stored.shape[2]} channels ({image.mode})'
                one = 'one: the number of the class at each pixel, no colours'
                return None, f'it has {found}, expected {one}'
    except OSError:  # the pipeline has its own reader
        pass
    # The loader may have read a palette as colours.
    if fault := describe_mask_shape(loaded, image_shape):
        return None, fault
    stored = stored if stored.shape == loaded.shape else loaded
    if stored.dtype in SMALL and loaded.dtype in SMALL:  # several times faster
        counts = np.bincount(stored.ravel().astype(np.int32) * 256 + loaded.ravel())
        pairs = [divmod(int(i), 256) for i in counts.nonzero()[0]]
        return Counter(dict(zip(pairs, counts[counts > 0].tolist()))), None
    return Counter(zip(stored.ravel().tolist(), loaded.ravel().tolist())), None
