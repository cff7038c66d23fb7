"""A contact sheet: pictures with boxes, masks and names, as the network gets them."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ra_mm.checks.images import Observed, get_instances
from ra_mm.checks.sample import fixed_randomness

SIDE = 320  # of a picture, in pixels


def draw_sheet(data: Observed, path: Path, num: int = 24, columns: int = 6) -> int:
    """Draw samples of a dataset, and write them to ``path``.

    Returns:
        int: The number of pictures; nothing is written if it is 0.
    """
    packed = [(s.path, s.packed, s.scale) for s in data.loaded if s.packed]
    mixer = data.leaf.mixed_by
    if mixer is not None:  # the network gets mixed images
        with fixed_randomness():
            packed = [('mixed', mixer[i], (1, 1)) for i in range(min(num, len(mixer)))]
    tiles = [
        _draw(image, sample, scale, data.leaf.classes)
        for image, sample, scale in packed[:num]
        if hasattr(sample.get('inputs'), 'shape')
    ]
    if not tiles:
        return 0
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    height = max(tile.height for tile in tiles)
    legend = _make_legend(data.leaf.classes, columns * SIDE)
    sheet = Image.new('RGB', (columns * SIDE, rows * height + legend.height), 'white')
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * SIDE, i // columns * height))
    sheet.paste(legend, (0, rows * height))
    sheet.save(path)
    return len(tiles)


def get_color(label: int) -> tuple[int, int, int]:
    """Return one of many colours that differ well."""
    hue = label * 0.618034 % 1
    value = 1 if label % 2 == 0 else 0.75
    phases = np.clip(np.abs((hue + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    return tuple(int(255 * value * v) for v in 0.15 + 0.85 * phases)


def _draw(path, packed, box_scale, classes):
    inputs = packed['inputs'].float().numpy()
    pixels = np.moveaxis(inputs[-3:], 0, -1)
    if pixels.shape[-1] == 3:
        pixels = pixels[..., ::-1]  # BGR to RGB
    else:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    if pixels.min() < 0 or pixels.max() > 255:  # normalized by the pipeline
        pixels = (pixels - pixels.min()) / max(np.ptp(pixels), 1e-6) * 255
    height, width = pixels.shape[:2]
    sample = packed.get('data_samples')
    pixels = _paint_masks(pixels.copy(), sample)
    scale = SIDE / max(height, width)
    picture = Image.fromarray(pixels.astype(np.uint8)).resize(
        (max(1, round(width * scale)), max(1, round(height * scale)))
    )
    draw = ImageDraw.Draw(picture)
    found = get_instances(packed)
    for box, label in zip(*found) if found else ():
        box = (box.reshape(-1, 2) * box_scale).tolist()
        corners = [(x * scale, y * scale) for x, y in (box[0], box[-1])]
        if corners[0][0] <= corners[1][0] and corners[0][1] <= corners[1][1]:
            draw.rectangle(
                [*corners[0], *corners[1]], outline=get_color(label), width=2
            )
            _write(draw, corners[0], _name(classes, label), get_color(label))
    title = Path(path).name
    labels = getattr(sample, 'gt_label', None)
    if labels is not None:
        names = ', '.join(_name(classes, int(label)) for label in labels.reshape(-1))
        title = f'{names}: {title}'
    tile = Image.new('RGB', (SIDE, picture.height + 16), 'white')
    tile.paste(picture, (0, 16))
    ImageDraw.Draw(tile).text((2, 1), title[:52], fill='black', font=_font())
    return tile


def _paint_masks(pixels, sample):
    masks = getattr(getattr(sample, 'gt_instances', None), 'masks', None)
    if masks is not None:
        for mask, label in zip(masks.to_ndarray(), sample.gt_instances.labels):
            _paint(pixels, mask > 0, get_color(int(label)))
    semantic = getattr(sample, 'gt_sem_seg', None)
    if semantic is not None:
        labels = np.array(semantic.data).squeeze()
        for label in np.unique(labels):
            color = (0, 0, 0) if label == 255 else get_color(int(label))
            _paint(pixels, labels == label, color)
    return pixels


def _paint(pixels, where, color):
    if where.shape != pixels.shape[:2]:  # an evaluation keeps the size on disk
        size = pixels.shape[1], pixels.shape[0]
        where = np.array(Image.fromarray(where).resize(size, Image.Resampling.NEAREST))
    pixels[where] = 0.5 * pixels[where] + 0.5 * np.array(color)


def _write(draw, corner, text, color):
    """Write above a box, or in it at the top, on a patch of this colour."""
    place = corner[0] + 1, corner[1] - 14 if corner[1] >= 14 else corner[1] + 1
    draw.rectangle(draw.textbbox(place, text, font=_font()), fill=color)
    ink = 'black' if np.dot(color, (0.3, 0.6, 0.1)) > 110 else 'white'
    draw.text(place, text, fill=ink, font=_font())


def _name(classes, label):
    return classes[label] if 0 <= label < len(classes) else str(label)


@functools.cache
def _font():
    # Pillow's own font lacks many scripts; matplotlib brings one that has more.
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont('DejaVu Sans'), 11)


def _make_legend(classes, width):
    names = [*classes[:60]] + ['...'] * (len(classes) > 60)
    per_row = max(1, width // 150)
    legend = Image.new('RGB', (width, 18 * -(-len(names) // per_row) + 4), 'white')
    draw = ImageDraw.Draw(legend)
    for i, name in enumerate(names):
        x, y = i % per_row * 150 + 4, i // per_row * 18 + 4
        draw.rectangle([x, y, x + 12, y + 12], fill=get_color(i))
        draw.text((x + 17, y - 1), name[:20], fill='black', font=_font())
    return legend
