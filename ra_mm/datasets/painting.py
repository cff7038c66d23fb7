"""Draws one picture of shapes on a textured background, with its mask.

Colour and texture say nothing about the class. The strokes and soft blobs
behind the shapes belong to no class. Shapes never overlap, though their boxes
may overlap slightly.
"""

from collections.abc import Sequence

import cv2
import numpy as np

# In alphabetical order, which is the order of classes read from folder names.
CLASSES = ('circle', 'square', 'star', 'triangle')
BACKGROUND = 1  # value in the masks, where 0 is ignored
# Each outline as radii at equal angles.
RADII = dict(circle=[1] * 48, square=[1] * 4, star=[1, 0.42] * 5, triangle=[1] * 3)
SUPERSAMPLING = 4


def paint(
    rng: np.random.Generator,
    labels: Sequence[int],
    size: tuple[int, int],
    scale: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, list]:
    """Draw one picture.

    Args:
        rng: Source of all randomness.
        labels: Classes of the shapes. The first shape is always drawn; each
            further one only if a free place is found for it.
        size: Width w and height h in pixels.
        scale: Smallest and largest diameter of a shape's circumscribed
            circle, relative to the shorter image side.

    Returns:
        The image, (h, w, 3) uint8 BGR; the mask, (h, w) uint8, with the values
        that :mod:`ra_mm.datasets.shapes` describes; and a list of
        (label, polygon) for each shape. A polygon has the shape (points, 2), x
        before y, in pixels from the outer corner of the first pixel.
    """
    image = _texture(rng, size, rng.uniform(60, 195, 3), strength=30)
    for _ in range(rng.integers(3, 8)):
        colour = rng.uniform(0, 255, 3)
        _blend(image, _distractor(rng, size), colour)

    mask = np.full(size[::-1], BACKGROUND, np.uint8)
    circles: list = []
    shapes: list = []
    for label in labels:
        circle = _free_circle(rng, circles, size, scale)
        if circle is None:
            continue
        circles.append(circle)
        polygon = _polygon(rng, CLASSES[label], *circle)
        alpha = _coverage(polygon, size)
        # Draw colours until one stands out from the background.
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
    """Noise at three scales and a wave around a colour, (h, w, 3) float32."""
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
        axes = (rng.uniform(0.08, 0.3, 2) * side).astype(int).tolist()
        start = rng.uniform(0, 360)
        turn, end = rng.uniform(0, 180), start + rng.uniform(60, 180)
        centre = centre.astype(int).tolist()
        cv2.ellipse(alpha, centre, axes, turn, start, end, 255, thickness, cv2.LINE_AA)
    else:
        y, x = np.ogrid[: size[1], : size[0]]
        sigma = rng.uniform(0.04, 0.15, 2) * side
        distance = ((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2
        alpha = 255 * rng.uniform(0.4, 0.9) * np.exp(-distance / 2)
    return np.float32(alpha / 255)


def _free_circle(rng, circles, size, scale):
    """Find a circle (x, y, radius) in the image, clear of the others."""
    for _ in range(50):
        radius = rng.uniform(*scale) * min(size) / 2
        x, y = rng.uniform(radius + 1, np.array(size) - radius - 1)
        if all(
            np.hypot(x - other_x, y - other_y) > radius + other + 2
            for other_x, other_y, other in circles
        ):
            return x, y, radius
    return None


def _polygon(rng, name, x, y, radius):
    """The corners of a shape, turned at random, rounded to 0.01 pixels."""
    radii = radius * np.array(RADII[name])
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(
        0, 2 * np.pi, len(radii), endpoint=False
    )
    corners = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
    return np.round(corners, 2)


def _coverage(polygon, size):
    """The fraction of each pixel that a polygon covers, (h, w) in [0, 1]."""
    w, h = size
    fine = np.zeros((h * SUPERSAMPLING, w * SUPERSAMPLING), np.uint8)
    # OpenCV puts pixel centres at integers; the points have 4 fractional bits.
    points = np.round((polygon * SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=4)
    coverage = cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA)
    return np.float32(coverage / 255)


def _blend(image, alpha, colour):
    """Lay a colour, or an image, over an image in place."""
    image += alpha[..., None] * (np.float32(colour) - image)
