"""Images and masks as they are stored, before a pipeline changes them."""

import os
import os.path as osp
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from ra_mm.errors import describe

ORIENTATION = 0x0112  # the EXIF tag
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


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
            size = image.size
            orientation = image.getexif().get(ORIENTATION, 1)
            stored = StoredImage(size, orientation, image.mode.startswith('I'))
            try:
                image.load()  # OpenCV fills what is missing with grey
            except (OSError, SyntaxError, ValueError) as e:
                stored.problem = describe(e)
            return stored
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None


def read_mask(
    path: str, loaded: np.ndarray, shape: tuple | None
) -> tuple[Counter | None, str | None]:
    """Count the pixels of a mask by stored and loaded value.

    Args:
        path: The mask file.
        loaded: What the pipeline made of it.
        shape: Height and width of the image.

    Returns:
        tuple: The counts by (stored value, loaded value), or None if they
        cannot be compared; and what is wrong with the file, or None.
    """
    try:
        with Image.open(path) as image:
            mode, kind, stored = image.mode, image.format, np.array(image)
    except (UnidentifiedImageError, OSError):
        stored = kind = None
    if kind == 'JPEG':
        return None, 'it is a JPEG, which changes values: save masks as PNG'
    if loaded.ndim != 2 or (stored is not None and stored.ndim != 2):
        # The loader may have read a palette as colours, or the other way round.
        if stored is not None and stored.ndim == 3:
            return None, (
                f'it has {stored.shape[2]} channels ({mode}), expected one: the number '
                'of the class at each pixel. Convert its colours to these numbers'
            )
        return None, f'it is loaded with shape {loaded.shape}, expected two axes'
    if shape is not None and loaded.shape != tuple(shape[:2]):
        return None, (
            f'it has {loaded.shape[1]} x {loaded.shape[0]} pixels, the image '
            f'{shape[1]} x {shape[0]}'
        )
    if stored is None or stored.shape != loaded.shape:
        stored = loaded
    return _count_pairs(stored, loaded), None


def _count_pairs(stored, loaded):
    small = (np.bool_, np.uint8)
    if stored.dtype in small and loaded.dtype in small:  # much faster than sorting
        codes = stored.ravel().astype(np.int32) * 256 + loaded.ravel()
        counts = np.bincount(codes)
        return Counter(
            {(int(c) // 256, int(c) % 256): int(counts[c]) for c in counts.nonzero()[0]}
        )
    values, first = np.unique(stored, return_inverse=True)
    labels, second = np.unique(loaded, return_inverse=True)
    codes, counts = np.unique(
        first.ravel() * len(labels) + second.ravel(), return_counts=True
    )
    return Counter(
        {
            (_integer(values[c // len(labels)]), _integer(labels[c % len(labels)])): n
            for c, n in zip(codes.tolist(), counts.tolist())
        }
    )


def _integer(value):
    return int(value) if float(value).is_integer() else float(value)


def list_left_out(folder: str, taken: set[str]) -> Counter:
    """Count the images below a folder that a dataset does not take, by suffix.

    Args:
        folder: Where the dataset looks for images.
        taken: The paths that it takes.
    """
    left_out: Counter = Counter()
    taken = {osp.normpath(path) for path in taken}
    stems = {osp.splitext(path)[0] for path in taken}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        for name in names:
            stem, suffix = osp.splitext(osp.normpath(osp.join(parent, name)))
            if (
                suffix.lower() in PICTURES
                and not name.startswith('.')
                and stem + suffix not in taken
                and stem not in stems  # a mask beside its image, for one
            ):
                left_out[suffix] += 1
    return left_out
