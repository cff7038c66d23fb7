"""A small dataset of shapes on textured backgrounds, drawn on the spot.

``python -m ra_mm.datasets.shapes data/shapes`` draws one set of pictures and
writes its annotations in the three forms that the toolboxes read::

    data/shapes/
        annotations/{train,val}.json      COCO, boxes and polygons  (mmdet)
        images/{train,val}/000000.jpg ...
        masks/{train,val}/000000.png ...  ADE20K-style masks        (mmseg)
        classes/{train,val}/<class>/0000.jpg ...  one shape each  (mmpretrain)
        shapes.json                       parameters, list of files

``CocoDataset``, ``BaseSegDataset`` and ``CustomDataset`` read it as it is,
given ``METAINFO``, or ``SEG_METAINFO`` and ``reduce_zero_label=True``.

A mask holds 1 for the background, 2 and up for ``CLASSES`` in their order,
and 0, which ``reduce_zero_label`` turns into "ignored", for the pixels that
the edge of a shape covers in part: a line about one pixel wide.

Colour and texture say nothing about the class; strokes and soft blobs behind
the shapes belong to none. Shapes do not overlap (their boxes may, slightly).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import mmengine
import numpy as np

# Sorted, so that they are numbered alike where folders name the classes.
CLASSES = ('circle', 'square', 'star', 'triangle')
PALETTE = [(220, 60, 60), (60, 140, 230), (240, 190, 40), (70, 190, 100)]
METAINFO = dict(classes=CLASSES, palette=PALETTE)
SEG_METAINFO = dict(
    classes=('background', *CLASSES), palette=[(120, 120, 120), *PALETTE]
)

# To be raised with every change that alters the files.
VERSION = 1

BACKGROUND = 1
# Each outline as its radii at equal angles.
RADII = dict(circle=[1] * 48, square=[1] * 4, star=[1, 0.42] * 5, triangle=[1] * 3)
# Diameter of a shape's circumscribed circle over the shorter image side.
IMAGE_SCALE, CLASS_SCALE = (0.16, 0.45), (0.4, 0.8)
MAX_SHAPES = 5
SUPERSAMPLING = 4


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
    """Draw the dataset into ``out_dir``, as a whole or not at all.

    A picture depends on the seed, its split, number and size alone, and has
    the same bytes on every run with the same numpy and OpenCV. A folder that
    already holds the dataset with these parameters is left as it is.

    Args:
        out_dir (str | Path): Folder to write; absent, empty or complete.
        num_train (int): Number of training images of 1 to 5 shapes.
        num_val (int): Number of validation images.
        image_size (int | tuple[int, int]): Side, or (width, height), of these
            images in pixels.
        classes_train (int): Number of training pictures of a single shape,
            for each class.
        classes_val (int): Number of such validation pictures.
        class_size (int): Their side in pixels.
        seed (int): Seed of everything.

    Raises:
        ValueError: If an argument is out of range, or ``out_dir`` holds
            something else.
    """
    if not isinstance(image_size, (tuple, list)):
        image_size = (image_size, image_size)
    parameters = dict(
        num_train=num_train,
        num_val=num_val,
        image_size=list(image_size),
        classes_train=classes_train,
        classes_val=classes_val,
        class_size=class_size,
        seed=seed,
    )
    _check_parameters(parameters)
    parameters['version'] = VERSION
    out_dir = Path(out_dir)
    if _is_complete(out_dir, parameters):
        print(f'{out_dir} is complete already: nothing to draw.')
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
            _write_images(root, split, num, image_size, seed)
            _write_classes(root, split, per_class, class_size, seed)
        files = sorted(str(path.relative_to(root)) for path in root.rglob('*.*'))
        mmengine.dump(dict(parameters=parameters, files=files), root / 'shapes.json')
        root.replace(target)
    print(
        f'{out_dir}: {num_train} + {num_val} images of '
        f'{image_size[0]}x{image_size[1]}, and of each of the '
        f'{len(CLASSES)} classes {classes_train} + {classes_val} pictures, '
        f'in {time.time() - start:.1f} s.'
    )


def _check_parameters(parameters):
    """Refuse what is no whole number or too small.

    Raises:
        ValueError: On the first such parameter.
    """
    minima = dict(
        num_train=1,
        num_val=1,
        image_size=64,
        classes_train=1,
        classes_val=1,
        class_size=32,
        seed=0,
    )
    for name, minimum in minima.items():
        value = parameters[name]
        numbers = value if isinstance(value, list) else [value]
        if name == 'image_size' and len(numbers) != 2:
            raise ValueError(
                f'image_size={value}: expected one side, or width and height'
            )
        for number in numbers:
            if type(number) is not int or number < minimum:
                raise ValueError(
                    f'{name}={value!r}: expected a whole number of at least {minimum}'
                )


def _is_complete(out_dir, parameters):
    """Whether ``out_dir`` holds the dataset already.

    Returns:
        bool: False if it is absent or empty.

    Raises:
        ValueError: If it holds anything else.
    """
    advice = 'Delete it, or choose another folder.'
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f'{out_dir} is a file. {advice}')
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return False
    try:
        record = json.loads((out_dir / 'shapes.json').read_text())
        there, files = record['parameters'], record['files']
        differences = ', '.join(
            f'{name}={there.get(name)} (asked for: {value})'
            for name, value in parameters.items()
            if there.get(name) != value
        )
        missing = [name for name in files if not (out_dir / name).is_file()]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        names = sorted(path.name for path in out_dir.iterdir())
        raise ValueError(
            f'{out_dir} is in use and was not written by this '
            f'generator (no valid shapes.json in it, but '
            f'{", ".join(names[:3])}). Choose another '
            'folder.'
        ) from None
    if differences:
        raise ValueError(f'{out_dir} was drawn with {differences}. {advice}')
    if missing:
        raise ValueError(
            f'{out_dir} lacks {len(missing)} of its '
            f'{len(files)} files, {missing[0]} for one. '
            f'{advice}'
        )
    return True


def _write_images(root, split, num, size, seed):
    """Write the images of a split, their COCO json and their masks."""
    coco = dict(
        info=dict(
            description='Shapes on textured backgrounds, drawn by ra_mm',
            version=str(VERSION),
        ),
        licenses=[
            dict(
                id=1,
                name='Apache-2.0',
                url='https://www.apache.org/licenses/LICENSE-2.0',
            )
        ],
        categories=[
            dict(id=i, name=name, supercategory='shape')
            for i, name in enumerate(CLASSES, 1)
        ],
        images=[],
        annotations=[],
    )
    for i in range(num):
        rng = _child_rng(seed, split, i)
        labels = rng.integers(len(CLASSES), size=rng.integers(1, MAX_SHAPES + 1))
        image, mask, shapes = paint(rng, labels, size, IMAGE_SCALE)
        mmcv.imwrite(image, root / f'images/{split}/{i:06d}.jpg')
        mmcv.imwrite(mask, root / f'masks/{split}/{i:06d}.png')
        coco['images'].append(
            dict(
                id=i + 1,
                file_name=f'{i:06d}.jpg',
                width=size[0],
                height=size[1],
                license=1,
            )
        )
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
    mmengine.dump(coco, root / f'annotations/{split}.json')


def _write_classes(root, split, num, side, seed):
    """Write a split's class folders."""
    for i in range(num * len(CLASSES)):
        number, label = divmod(i, len(CLASSES))
        rng = _child_rng(seed, split, number, label)
        image, _, _ = paint(rng, [label], (side, side), CLASS_SCALE)
        mmcv.imwrite(image, root / f'classes/{split}/{CLASSES[label]}/{number:04d}.jpg')


def _child_rng(seed, split, *key):
    """The random generator of one picture."""
    key = (('train', 'val').index(split), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def paint(
    rng: np.random.Generator,
    labels: Sequence[int],
    size: tuple[int, int],
    scale: tuple[float, float],
) -> tuple:
    """Draw one picture.

    Args:
        rng (np.random.Generator): Source of all that is random.
        labels (Sequence[int]): Classes of the shapes to draw. The first is
            always drawn, another only if a place is found where it touches
            none before it.
        size (tuple[int, int]): Width w and height h in pixels.
        scale (tuple[float, float]): Least and greatest diameter of a shape's
            circumscribed circle, over the shorter side.

    Returns:
        tuple: The image, (h, w, 3) uint8, BGR; the mask, (h, w) uint8, as
        described at the top of this module; and the list of what was drawn
        as (label, polygon), the polygon of shape (points, 2) in pixels, x
        before y, (0, 0) the outer corner of the first pixel.
    """
    image = _texture(rng, size, rng.uniform(60, 195, 3), strength=30)
    for _ in range(rng.integers(3, 8)):
        colour = rng.uniform(0, 255, 3)
        _blend(image, _distractor(rng, size), colour)

    mask = np.full(size[::-1], BACKGROUND, np.uint8)
    circles, shapes = [], []
    for label in labels:
        circle = _free_circle(rng, circles, size, scale)
        if circle is None:
            continue
        circles.append(circle)
        x, y, radius = circle
        radii = radius * np.array(RADII[CLASSES[label]])
        angles = rng.uniform(0, 2 * np.pi) + np.linspace(
            0, 2 * np.pi, len(radii), endpoint=False
        )
        polygon = np.round(
            np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1), 2
        )
        alpha = _coverage(polygon, size)
        # A colour that can be told from what is behind the shape.
        colour = behind = image[alpha > 0].mean(0)
        while np.abs(colour - behind).max() < 60:
            colour = rng.uniform(0, 255, 3)
        left, top, w, h = cv2.boundingRect(np.uint8(alpha > 0))
        window = np.s_[top : top + h, left : left + w]
        _blend(image[window], alpha[window], _texture(rng, (w, h), colour, strength=15))
        mask[alpha > 0] = 0
        mask[alpha == 1] = BACKGROUND + 1 + label
        shapes.append((label, polygon))

    deviation = rng.uniform(3, 12)
    image += deviation * rng.standard_normal(image.shape, np.float32)
    return image.round().clip(0, 255).astype(np.uint8), mask, shapes


def _texture(rng, size, colour, strength):
    """Noise of three scales and a wave around a colour, (h, w, 3) float32."""
    w, h = size
    image = np.full((h, w, 3), colour, np.float32)
    for cells in (3, 10, 30):
        noise = rng.uniform(-1, 1, (cells, cells, 1)) * rng.uniform(
            -strength, strength, 3
        )
        image += cv2.resize(
            noise.astype(np.float32), size, interpolation=cv2.INTER_CUBIC
        )
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    frequency = 2 * np.pi * rng.uniform(2, 16) / min(size)
    y, x = np.ogrid[:h, :w]
    wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    image += wave[..., None] * rng.uniform(-strength, strength, 3)
    return image


def _distractor(rng, size):
    """Opacity, (h, w) in [0, 1], of a bent stroke, an arc or a soft blob."""
    alpha = np.zeros(size[::-1], np.uint8)
    side = min(size)
    centre = rng.uniform(0, size)
    thickness = int(rng.integers(1, max(2, side // 30) + 1))
    kind = rng.integers(3)
    if kind == 0:
        bends = rng.uniform(-0.3, 0.3, (3, 2)).cumsum(0) * side
        points = np.round(centre + bends).astype(np.int32)
        cv2.polylines(alpha, [points], False, 255, thickness, cv2.LINE_AA)
    elif kind == 1:
        axes = rng.uniform(0.08, 0.3, 2) * side
        start = rng.uniform(0, 360)
        cv2.ellipse(
            alpha,
            centre.astype(int).tolist(),
            axes.astype(int).tolist(),
            rng.uniform(0, 180),
            start,
            start + rng.uniform(60, 180),
            255,
            thickness,
            cv2.LINE_AA,
        )
    else:
        y, x = np.ogrid[: size[1], : size[0]]
        sigma = rng.uniform(0.04, 0.15, 2) * side
        distance = ((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2
        alpha = 255 * rng.uniform(0.4, 0.9) * np.exp(-distance / 2)
    return np.float32(alpha / 255)


def _free_circle(rng, circles, size, scale):
    """A circle (x, y, radius) in the image, clear of the others, or None."""
    for _ in range(50):
        radius = rng.uniform(*scale) * min(size) / 2
        x, y = rng.uniform(radius + 1, np.array(size) - radius - 1)
        if all(
            np.hypot(x - other_x, y - other_y) > radius + other + 2
            for other_x, other_y, other in circles
        ):
            return x, y, radius
    return None


def _coverage(polygon, size):
    """The part of each pixel that a polygon covers, (h, w) in [0, 1]."""
    w, h = size
    fine = np.zeros((h * SUPERSAMPLING, w * SUPERSAMPLING), np.uint8)
    # To OpenCV a pixel's centre is at whole numbers; 4 fractional bits.
    points = np.round((polygon * SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=4)
    coverage = cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA)
    return np.float32(coverage / 255)


def _blend(image, alpha, colour):
    """Lay a colour, or an image of colours, over an image, in place."""
    image += alpha[..., None] * (np.float32(colour) - image)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m ra_mm.datasets.shapes',
        description='Draw a small dataset of shapes, with annotations for '
        'detection, segmentation and classification',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        'out_dir', nargs='?', default='data/shapes', help='folder to write'
    )
    parser.add_argument(
        '--train', type=int, default=400, help='number of training images'
    )
    parser.add_argument(
        '--val', type=int, default=60, help='number of validation images'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        default=[256],
        help='side, or width and height, of the images in pixels',
    )
    parser.add_argument(
        '--classes-train',
        type=int,
        default=100,
        help='number of single-shape training pictures for each class',
    )
    parser.add_argument(
        '--classes-val',
        type=int,
        default=25,
        help='number of single-shape validation pictures for each class',
    )
    parser.add_argument(
        '--class-size',
        type=int,
        default=64,
        help='side of the single-shape pictures in pixels',
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    size = args.size[0] if len(args.size) == 1 else args.size
    try:
        write_shapes(
            args.out_dir,
            args.train,
            args.val,
            size,
            args.classes_train,
            args.classes_val,
            args.class_size,
            args.seed,
        )
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
