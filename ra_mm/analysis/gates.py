"""What trained gates do to images: the paper's Fig. 5 and more.

A block is named RA_<stage>_<block> as in the paper, both from 1, where the
stem is stage 1: the third block of ``layer1`` is RA_2_3. The rule holds for
MobileNetV2 too, whose ``layer2``, of 24 channels at full width, is stage 3;
blocks without a skip connection have no gate.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

import matplotlib
import numpy as np
import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from ra_mm.layers import ReverseAttention


def find_blocks(backbone: nn.Module) -> dict[str, ReverseAttention]:
    """The RA layers of a backbone by the names of their blocks, in order.

    A layer that does not lie in ``layer<i>.<j>.attention`` keeps its own name.

    Raises:
        ValueError: If there is none.
    """
    blocks = {}
    for name, layer in backbone.named_modules():
        if isinstance(layer, ReverseAttention):
            place = re.fullmatch(r'layer(\d+)\.(\d+)\.attention', name)
            if place:
                name = 'RA_{}_{}'.format(*(int(i) + 1 for i in place.groups()))
            blocks[name] = layer
    if not blocks:
        raise ValueError(
            f'{type(backbone).__name__} has no reverse attention,'
            ' so there are no gates to look at'
        )
    return blocks


def choose_blocks(
    blocks: Iterable[str], names: Iterable[str] | None = None
) -> list[str]:
    """Those of the blocks that are named, or a default.

    Args:
        blocks (Iterable[str]): All names, see :func:`find_blocks`.
        names (Iterable[str], optional): Defaults to the last block of each
            stage and all of the last stage: of a ResNet-50 these are RA_2_3,
            RA_3_4, RA_4_6, RA_5_1, RA_5_2 and RA_5_3.

    Raises:
        ValueError: If there is no block of such a name.
    """
    blocks = list(blocks)
    if names is None:
        stages = {block.rpartition('_')[0]: block for block in blocks}
        *_, last = stages
        return [
            block
            for block in blocks
            if block in stages.values() or block.startswith(f'{last}_')
        ]
    unknown = [name for name in names if name not in blocks]
    if unknown:
        raise ValueError(
            f'there is no block {", ".join(unknown)}: the model has {", ".join(blocks)}'
        )
    return [block for block in blocks if block in names]


@torch.no_grad()
def _run(
    backbone: nn.Module, images: Tensor, see: Callable[[str, Tensor, Tensor], None]
) -> None:
    """Call ``see(name, G, x)`` for each block that gates its shortcut x."""

    def hook(name, layer, args, y):
        F, x = args
        G = layer.gate(F)
        if not G.isfinite().all():
            raise ValueError(f'{name}: G is not finite, training diverged')
        see(name, G.cpu(), x)

    handles = [
        layer.register_forward_hook(partial(hook, name))
        for name, layer in find_blocks(backbone).items()
    ]
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()


def measure(
    backbone: nn.Module, images: Iterable[tuple[str, Tensor]], chosen: list[str]
) -> dict:
    """Average the gates over the images of each class.

    Args:
        backbone (nn.Module): An RA backbone in evaluation mode.
        images (Iterable[tuple[str, Tensor]]): A class and preprocessed images
            of it, (N, 3, H, W), on the backbone's device. At least one.
        chosen (list[str]): Blocks of which to keep G itself.

    Returns:
        dict: What ``gates.json`` holds: ``temp``; ``classes``; ``images``, the
        number by class; and ``blocks``, all of them by name, with

        - ``G``, of the chosen ones alone: by class a list of C numbers, G of
          each channel averaged over the images of the class;
        - ``mean`` and ``spread``: mean and standard deviation (divisor C) over
          the channels of G averaged over all images;
        - ``class_spread``: the standard deviation over the classes (divisor:
          their number) of ``G``, averaged over the channels.

    Raises:
        ValueError: If a gate is not finite.
    """
    blocks = find_blocks(backbone)
    counts, sums = {}, {name: {} for name in blocks}

    def see(name, G, x):
        sums[name].setdefault(label, 0)
        sums[name][label] += G.double().sum(dim=0)

    for label, batch in images:
        _run(backbone, batch, see)
        counts[label] = counts.get(label, 0) + len(batch)

    report = {}
    for name, by_class in sums.items():
        G = sum(by_class.values()) / sum(counts.values())
        by_class = torch.stack([by_class[k] / n for k, n in counts.items()])
        report[name] = dict(
            mean=_rounded(G.mean()),
            spread=_rounded(G.std(correction=0)),
            class_spread=_rounded(by_class.std(dim=0, correction=0).mean()),
        )
        if name in chosen:
            report[name]['G'] = dict(zip(counts, _rounded(by_class)))
    temp = next(iter(blocks.values())).gate.temp.item()
    return dict(temp=temp, classes=[*counts], images=counts, blocks=report)


def _rounded(numbers):
    return numbers.round(decimals=6).tolist()


def plot(gates: dict) -> Figure:
    """Fig. 5: G of each channel in the chosen blocks, a line for each class.

    The channels are in order of their G, since by their index, as in the
    paper, the last line hides the others.

    Args:
        gates (dict): What :func:`measure` returns.
    """
    blocks = {k: v for k, v in gates['blocks'].items() if 'G' in v}
    classes = gates['classes']
    columns = min(3, len(blocks))
    rows = -(-len(blocks) // columns)
    colours = matplotlib.colormaps['turbo'](np.linspace(0.05, 0.95, len(classes)))
    fig = Figure((1 + 4 * columns, 1.2 + 2.6 * rows), layout='constrained')
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(blocks) :]:
        ax.remove()
    for ax, (name, block) in zip(axes.flat, blocks.items()):
        G = np.array([block['G'][label] for label in classes])
        order = G.mean(axis=0).argsort()
        ax.axhline(1, color='black', linewidth=0.8, linestyle='--')
        for label, colour, line in zip(classes, colours, G[:, order]):
            ax.plot(line, color=colour, linewidth=0.8, label=label)
        ax.set(
            title=f'{name} (spread {block["spread"]:.2g})',
            xlabel='channels in order of G',
            ylabel='G',
            xmargin=0,
        )
        ax.ticklabel_format(useOffset=False)
    lines = axes.flat[0].lines[1:13]
    title = f'12 of {len(classes)} classes' if len(classes) > 12 else None
    fig.legend(handles=lines, loc='outside lower center', ncols=4, title=title)
    fig.suptitle(f'Gates by class (temp = {gates["temp"]:g})')
    return fig


def plot_spread(gates: dict) -> Figure:
    """``mean``, ``spread`` and ``class_spread`` by depth, see :func:`plot`."""
    blocks = gates['blocks']
    fig = Figure((3.5 + 0.25 * len(blocks), 6), layout='constrained')
    axes = fig.subplots(3, sharex=True)
    labels = dict(
        mean='mean of G',
        spread='spread over\nthe channels',
        class_spread='spread over\nthe classes',
    )
    for ax, (key, label) in zip(axes, labels.items()):
        ax.plot([block[key] for block in blocks.values()], 'o-', markersize=4)
        ax.axhline(key == 'mean', color='black', linewidth=0.8, linestyle='--')
        ax.set_ylabel(label)
        ax.ticklabel_format(useOffset=False)
    ax.set_xticks(range(len(blocks)), blocks, rotation=90)
    fig.suptitle(f'Gates by depth (temp = {gates["temp"]:g})')
    return fig


def plot_strip(
    backbone: nn.Module, image: Tensor, picture: np.ndarray, chosen: list[str]
) -> Figure:
    """What the gates let through of one image, from stage to stage.

    Of each chosen block two maps of means over the channels: the shortcut's
    abs(x), behind its projection if it has one; and abs(G x) as a fraction of
    it, which is 1 where the gates change nothing in all.

    Args:
        backbone (nn.Module): An RA backbone in evaluation mode.
        image (Tensor): The preprocessed image of shape (1, 3, H, W).
        picture (np.ndarray): The image to look at, RGB of shape (h, w, 3);
            what preprocessing padded lies to the right of it and below.
        chosen (list[str]): Blocks to show.
    """
    maps = {}

    def see(name, G, x):
        x = x[0].abs().float().cpu()
        before = x.mean(dim=0).numpy()
        behind = (G[0].abs()[:, None, None] * x).mean(dim=0).numpy()
        maps[name] = (
            before,
            np.divide(behind, before, out=np.ones_like(before), where=before > 0),
        )

    _run(backbone, image, see)
    maps = {name: maps[name] for name in chosen}
    change = max(abs(fraction - 1).max() for _, fraction in maps.values())
    norm = CenteredNorm(1, max(change, 1e-3))
    height, width = image.shape[2:]
    size = 4 + 1.8 * len(maps), 1.2 + 3.6 * height / width
    fig = Figure(size, layout='constrained')
    widths = [2] + [1] * len(maps)
    grid = fig.add_gridspec(2, len(widths), width_ratios=widths)
    ax = fig.add_subplot(grid[:, 0], title='image')
    ax.imshow(picture, extent=(0, picture.shape[1], picture.shape[0], 0))
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for column, (name, (before, fraction)) in enumerate(maps.items(), 1):
        above = fig.add_subplot(grid[0, column], title=name)
        above.imshow(before, vmin=0)
        below = fig.add_subplot(grid[1, column])
        shown = below.imshow(fraction, norm=norm, cmap='RdBu_r')
        for ax, label in ((above, '|x|'), (below, '|G x| / |x|')):
            ax.set(xticks=[], yticks=[], ylabel=label if column == 1 else '')
    fig.colorbar(shown, ax=below)
    fig.suptitle(
        'The shortcut x, and how its gates change it\n'
        '(means over the channels; red: reinforced, blue: weakened)'
    )
    return fig
