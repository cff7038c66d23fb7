"""Draws a small dataset of shapes for detection, segmentation, classification.

``python -m ra_mm.datasets.shapes data/shapes`` draws one set of pictures and
writes its annotations in the formats of the three toolboxes::

    data/shapes/
        annotations/{train,val}.json      COCO, boxes and polygons  (mmdet)
        images/{train,val}/000000.jpg ...
        masks/{train,val}/000000.png ...  ADE20K-style masks        (mmseg)
        classes/{train,val}/<class>/0000.jpg ...  one shape each  (mmpretrain)
        shapes.json                       parameters

``CocoDataset`` (with ``METAINFO``), ``BaseSegDataset`` (with ``SEG_METAINFO``
and ``reduce_zero_label=True``) and ``CustomDataset`` read it without changes, and
torchvision's ``ImageFolder`` reads the classes. No OpenMMLab package is needed.

In a mask, 1 is the background and the values from 2 are ``CLASSES`` in order.
0, which ``reduce_zero_label`` turns into "ignored", marks the pixels that the
edge of a shape covers partly: a line about one pixel wide.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from ra_mm.datasets.painting import CLASSES, paint
from ra_mm.errors import UserError
from ra_mm.validation import check_arg, integer

PALETTE = [(220, 60, 60), (60, 140, 230), (240, 190, 40), (70, 190, 100)]
METAINFO = dict(classes=CLASSES, palette=PALETTE)
SEG_METAINFO = dict(
    classes=('background', *CLASSES), palette=[(120, 120, 120), *PALETTE]
)

# Raise it with every change that alters the files.
VERSION = 1

# Diameter of a shape's circumscribed circle relative to the shorter image side.
IMAGE_SCALE, CLASS_SCALE = (0.16, 0.45), (0.4, 0.8)
MAX_SHAPES = 5
MINIMA = dict(
    num_train=1, num_val=1, classes_train=1, classes_val=1, class_size=32, seed=0
)
MIN_IMAGE_SIDE = 64


def write_shapes(
    out_dir: str | Path,
    num_train: int = 400,
    num_val: int = 60,
    image_size: int | tuple[int, int] = 256,
    classes_train: int = 100,
    classes_val: int = 25,
    class_size: int = 64,
    seed: int = 0,
) -> None:
    """Draw the dataset into ``out_dir``, completely or not at all.

    A picture depends only on the seed and on its split, number and size, and
    has the same bytes on every run with the same numpy and OpenCV. A folder
    that already holds the dataset with these parameters is left unchanged.

    Args:
        out_dir: Folder to write; missing, empty or complete.
        num_train: Number of training images with 1 to 5 shapes each.
        num_val: Number of validation images.
        image_size: Side, or (width, height), of these images in pixels.
        classes_train: Number of training pictures with a single shape, for
            each class.
        classes_val: Number of validation pictures with a single shape.
        class_size: Side of the pictures with a single shape, in pixels.
        seed: Random seed.

    Raises:
        UserError: If an argument is out of range, or ``out_dir`` holds
            something else.
    """
    sides = [*image_size] if isinstance(image_size, (tuple, list)) else [image_size]
    size = sides * 2 if len(sides) == 1 else sides
    parameters = dict(num_train=num_train, num_val=num_val, image_size=size)
    parameters |= dict(classes_train=classes_train, classes_val=classes_val)
    parameters |= dict(class_size=class_size, seed=seed, version=VERSION)
    _check_parameters(parameters)
    out_dir = Path(out_dir)
    if _is_complete(out_dir, parameters):
        print(f'{out_dir} is already complete: nothing to draw.')
        return

    start = time.time()
    target = out_dir.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.shapes-', dir=target.parent) as folder:
        root = Path(folder) / target.name
        for split, num, per_class in (
            ('train', num_train, classes_train),
            ('val', num_val, classes_val),
        ):
            print(f'Drawing {out_dir}, {split}')
            _write_images(root, split, num, size, seed)
            _write_classes(root, split, per_class, class_size, seed)
        (root / 'shapes.json').write_text(json.dumps(dict(parameters=parameters)))
        root.replace(target)
    width, height = size
    text = f'{out_dir}: {num_train} + {num_val} images of {width}x{height} and, for'
    text += f' each of the {len(CLASSES)} classes, {classes_train} + {classes_val}'
    print(f'{text} pictures, drawn in {time.time() - start:.1f} s.')


def _check_parameters(parameters):
    """Refuse values that are not integers or are too small."""
    sides = parameters['image_size']
    if len(sides) != 2:
        raise UserError(f'image_size={sides}: expected one side, or width and height')
    try:
        for side in sides:
            check_arg(integer(MIN_IMAGE_SIDE), image_size=side)
        for name, minimum in MINIMA.items():
            check_arg(integer(minimum), **{name: parameters[name]})
    except ValueError as e:
        raise UserError(str(e)) from e


def _is_complete(out_dir, parameters):
    """Whether ``out_dir`` already holds the dataset; False if it is empty.

    Raises:
        UserError: If it holds anything else.
    """
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return False
    try:
        found = dict(json.loads((out_dir / 'shapes.json').read_text())['parameters'])
    except (OSError, ValueError, KeyError, TypeError):
        text = f'{out_dir} exists and was not written by this generator: it has no'
        raise UserError(f'{text} valid shapes.json. Choose another folder.') from None
    differences = ', '.join(
        f'{name}={found.get(name)} (requested: {value})'
        for name, value in parameters.items()
        if found.get(name) != value
    )
    if differences:
        advice = 'Delete it, or choose another folder.'
        raise UserError(f'{out_dir} was drawn with {differences}. {advice}')
    return True


def _write_images(root, split, num, size, seed):
    """Write the images of a split with their COCO annotations and masks."""
    licence = 'https://www.apache.org/licenses/LICENSE-2.0'
    classes = enumerate(CLASSES, 1)
    coco: dict = dict(
        info=dict(
            description='Shapes on textured backgrounds, drawn by ra_mm',
            version=str(VERSION),
        ),
        licenses=[dict(id=1, name='Apache-2.0', url=licence)],
        categories=[dict(id=i, name=n, supercategory='shape') for i, n in classes],
        images=[],
        annotations=[],
    )
    width, height = size
    for i in range(num):
        rng = _child_rng(seed, split, i)
        labels = rng.integers(len(CLASSES), size=rng.integers(1, MAX_SHAPES + 1))
        image, mask, shapes = paint(rng, labels, size, IMAGE_SCALE)
        name = f'{i:06d}.jpg'
        _write_image(root / f'images/{split}/{name}', image)
        _write_image(root / f'masks/{split}/{i:06d}.png', mask)
        entry = dict(id=i + 1, file_name=name, width=width, height=height, license=1)
        coco['images'].append(entry)
        for label, polygon in shapes:
            low, high = polygon.min(0), polygon.max(0)
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']) + 1,
                    image_id=i + 1,
                    category_id=int(label) + 1,
                    bbox=np.round([*low, *(high - low)], 2).tolist(),
                    area=round(cv2.contourArea(polygon.astype(np.float32)), 2),
                    segmentation=[polygon.ravel().tolist()],
                    iscrowd=0,
                )
            )
    path = root / f'annotations/{split}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco))


def _write_classes(root, split, num, side, seed):
    """Write the class folders of a split."""
    for i in range(num * len(CLASSES)):
        number, label = divmod(i, len(CLASSES))
        rng = _child_rng(seed, split, number, label)
        image, _, _ = paint(rng, [label], (side, side), CLASS_SCALE)
        name = f'{CLASSES[label]}/{number:04d}.jpg'
        _write_image(root / f'classes/{split}/{name}', image)


def _write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def _child_rng(seed, split, *key):
    """The random generator of one picture."""
    key = (('train', 'val').index(split), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m ra_mm.datasets.shapes',
        description='Draw a small dataset of shapes, with annotations for '
        'detection, segmentation and classification',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    text = 'folder to write'
    parser.add_argument('out_dir', nargs='?', default='data/shapes', help=text)
    for flag, name, default, text in (
        ('--train', 'num_train', 400, 'number of training images'),
        ('--val', 'num_val', 60, 'number of validation images'),
        ('--classes-train', None, 100, 'training pictures of one shape for each class'),
        ('--classes-val', None, 25, 'validation pictures of one shape for each class'),
        ('--class-size', None, 64, 'side of the pictures of one shape, in pixels'),
        ('--seed', None, 0, 'random seed'),
    ):
        dest = name or flag[2:].replace('-', '_')
        parser.add_argument(flag, dest=dest, type=int, default=default, help=text)
    text = 'side, or width and height, of the images in pixels'
    sides: dict = dict(dest='image_size', type=int, nargs='+', default=[256])
    parser.add_argument('--size', help=text, **sides)
    return parser.parse_args()


def main() -> None:
    try:
        write_shapes(**vars(parse_args()))
    except (UserError, OSError) as e:
        sys.exit(f'error: {e}')


if __name__ == '__main__':
    main()
