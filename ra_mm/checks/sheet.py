"""A contact sheet: pictures with boxes, masks and names, as the network gets them."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ra_mm.checks.sample import Part, Sample, fixed_randomness, get_instances

MAX_NAMES = 60  # in the legend


def draw_sheet(part: Part, path: Path, num: int = 24, columns: int = 6) -> int:
    """Draw samples of a dataset, and write them to ``path``.

    Returns:
        int: The number of pictures; nothing is written if it is 0.
    """
    samples = part.loaded[:num]
    if getattr(part.root, 'pipeline', None) and part.root is not part.dataset:
        with fixed_randomness():  # the network gets mixed images
            mixed = [part.root[i] for i in range(min(num, len(part.root)))]
        samples = [Sample('mixed', {}, packed=packed) for packed in mixed]
    samples = [s for s in samples if hasattr((s.packed or {}).get('inputs'), 'shape')]
    if not samples:
        return 0
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * rows + 0.6), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis('off')
    for ax, sample in zip(axes, samples):
        _draw(ax, sample, part.classes)
    names = [*part.classes[:MAX_NAMES]] + ['...'] * (len(part.classes) > MAX_NAMES)
    patches = [Patch(color=_color(i), label=name) for i, name in enumerate(names)]
    figure.legend(handles=patches, loc='outside lower center', ncols=2 * columns)
    figure.savefig(path, dpi=100)
    return len(samples)


def _color(label, alpha=1.0):
    """Return one of many colours that differ well."""
    color = np.array(matplotlib.colormaps['hsv'](label * 0.618034 % 1)[:3])
    return (*(0.3 + 0.7 * color), alpha)  # light enough for black letters


def _draw(ax, drawn, classes):
    packed: Any = drawn.packed
    title = Path(drawn.path).name
    pixels = np.moveaxis(packed['inputs'].float().numpy()[-3:], 0, -1)
    # Grey, or BGR to RGB
    pixels = pixels[..., ::-1] if pixels.shape[-1] == 3 else pixels[..., [0, 0, 0]]
    if pixels.min() < 0 or pixels.max() > 255:  # normalized by the pipeline
        pixels = (pixels - pixels.min()) / max(np.ptp(pixels), 1e-6) * 255
    ax.imshow(pixels.astype(np.uint8))
    sample = packed.get('data_samples')
    height, width = pixels.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # of masks of any size
    for mask, color in _iter_masks(sample):
        ax.imshow(mask[..., None] * np.array(color), extent=extent)
    for box, label in zip(*(get_instances(packed) or ((), ()))):
        (x, y), *_, (right, bottom) = box.reshape(-1, 2) * drawn.scale
        color = _color(label)
        ax.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, color=color))
        name, frame = _name(classes, label), {'color': color, 'pad': 1}
        ax.text(x, y, name, fontsize=7, bbox=frame)
    labels = getattr(sample, 'gt_label', None)
    if labels is not None:
        names = (_name(classes, int(label)) for label in labels.reshape(-1))
        title = f'{", ".join(names)}: {title}'
    ax.set_title(title[:40], fontsize=8)


def _iter_masks(sample):
    """Yield masks of instances, or of classes, with their colours."""
    instances: Any = getattr(sample, 'gt_instances', None)
    if getattr(instances, 'masks', None) is not None:
        for mask, label in zip(instances.masks.to_ndarray(), instances.labels):
            yield mask > 0, _color(int(label), 0.5)
    if (semantic := getattr(sample, 'gt_sem_seg', None)) is not None:
        labels = semantic.data.squeeze().numpy()
        for label in np.unique(labels) if labels.ndim == 2 else ():  # else RGB
            black = (0, 0, 0, 0.5)
            yield labels == label, black if label == 255 else _color(int(label), 0.5)


def _name(classes, label):
    return classes[label] if 0 <= label < len(classes) else str(label)
