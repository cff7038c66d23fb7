"""Measure and draw the gates G of trained reverse attention, as in Fig. 5.

Blocks have the names of the paper, RA_<stage>_<block>. Both numbers start at 1
and the stem is stage 1, so the third block of ``layer1`` is RA_2_3. The same
holds for MobileNetV2, where ``layer2`` (24 channels at full width) is stage 3.
Blocks without a shortcut have no gate.
"""

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

import matplotlib
import numpy as np
import torch
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

from ra_mm.errors import UserError
from ra_mm.layers import ReverseAttention


def find_blocks(backbone: nn.Module) -> dict[str, ReverseAttention]:
    """Find the RA layers of a backbone, in the order of its modules.

    Returns:
        dict: RA layers by the name of their block: RA_<stage>_<block> for the
        first RA layer of the block ``layer<stage - 1>.<block - 1>``, otherwise
        the dotted name of the layer in the backbone.

    Raises:
        UserError: If the backbone has no RA layer.
    """
    blocks = {}
    for name, layer in backbone.named_modules():
        if isinstance(layer, ReverseAttention):
            place = re.fullmatch(r'layer(\d+)\.(\d+)\.\w+', name)
            if place:
                stage, block = (int(number) + 1 for number in place.groups())
                paper_name = f'RA_{stage}_{block}'
                name = name if paper_name in blocks else paper_name
            blocks[name] = layer
    if not blocks:
        name = type(backbone).__name__
        raise UserError(f'{name} has no reverse attention, so it has no gates')
    return blocks


def choose_blocks(
    blocks: Iterable[str], names: Iterable[str] | None = None
) -> list[str]:
    """Select blocks by name.

    Args:
        blocks (Iterable[str]): All names, see :func:`find_blocks`.
        names (Iterable[str], optional): Defaults to the last block of each
            stage and all blocks of the last stage; for a ResNet-50 these are
            RA_2_3, RA_3_4, RA_4_6, RA_5_1, RA_5_2 and RA_5_3.

    Returns:
        list[str]: The selected names, in the order of ``blocks``.

    Raises:
        UserError: If a name is not among the blocks.
    """
    blocks = list(blocks)
    if names is None:
        last_of = {_stage(block): block for block in blocks}
        *_, last_stage = last_of
        return [
            block
            for block in blocks
            if block in last_of.values() or _stage(block) == last_stage
        ]
    unknown = [name for name in names if name not in blocks]
    if unknown:
        known = f'the model has {", ".join(blocks)}'
        raise UserError(f'no block {", ".join(unknown)}: {known}')
    return [block for block in blocks if block in names]


def _stage(block):
    """Drop the number of the block: RA_2_3 -> RA_2, a.2.b -> a."""
    return re.sub(r'[._]\d+(\.\w+)?$', '', block)


@torch.no_grad()
def run_with_gates(
    backbone: nn.Module, images: Tensor, on_gate: Callable[[str, Tensor, Tensor], None]
) -> None:
    """Run a backbone and report the gates of each block.

    Args:
        backbone (nn.Module): An RA backbone.
        images (Tensor): Preprocessed images, (N, 3, H, W).
        on_gate (callable): Called as ``on_gate(name, G, x)`` for each block,
            with G of shape (N, C) on the CPU and the shortcut x of shape
            (N, C, h, w).

    Raises:
        UserError: If a gate is not finite.
    """

    def report(name, layer, args):
        F, x = args
        G = layer.gate(F)
        if not G.isfinite().all():
            raise UserError(f'{name}: G is not finite, so the training has diverged')
        on_gate(name, G.cpu(), x)

    with ExitStack() as hooks:
        for name, layer in find_blocks(backbone).items():
            handle = layer.register_forward_pre_hook(partial(report, name))
            hooks.enter_context(handle)
        backbone(images)


def measure_gates(
    backbone: nn.Module, images: Iterable[tuple[str, Tensor]], chosen: list[str]
) -> dict:
    """Average the gates over the images of each class.

    Args:
        backbone (nn.Module): An RA backbone in evaluation mode.
        images (Iterable[tuple[str, Tensor]]): Pairs of a class and its
            preprocessed images, (N, 3, H, W), on the backbone's device. At
            least one pair.
        chosen (list[str]): Blocks whose G is kept channel by channel.

    Returns:
        dict: The content of ``gates.json``: ``temp``; ``classes``; ``images``,
        their number by class; and ``blocks``, a dict for each block with

        - ``G`` (chosen blocks only): for each class a list of C numbers, G of
          each channel averaged over the images of the class;
        - ``mean`` and ``spread``: mean and standard deviation (divisor C) over
          the channels of G averaged over all images;
        - ``class_spread``: standard deviation of ``G`` over the classes
          (divisor: number of classes), averaged over the channels.

        All are rounded to 6 decimals.

    Raises:
        UserError: If a gate is not finite.
    """
    blocks = find_blocks(backbone)
    counts: dict[str, int] = {}
    sums: dict[str, dict] = {name: {} for name in blocks}

    def add(name, G, x):
        sums[name][label] = sums[name].get(label, 0) + G.double().sum(dim=0)

    for label, batch in images:
        run_with_gates(backbone, batch, add)
        counts[label] = counts.get(label, 0) + len(batch)

    report = {}
    for name, by_class in sums.items():
        G = sum(by_class.values()) / sum(counts.values())
        means = torch.stack([by_class[k] / n for k, n in counts.items()])
        report[name] = dict(
            mean=_rounded(G.mean()),
            spread=_rounded(G.std(correction=0)),
            class_spread=_rounded(means.std(dim=0, correction=0).mean()),
        )
        if name in chosen:
            report[name]['G'] = dict(zip(counts, _rounded(means)))
    temp = next(iter(blocks.values())).gate.temp.item()
    return dict(temp=temp, classes=[*counts], images=counts, blocks=report)


def check_claims(measured: list[dict]) -> list[str]:
    """Check what the paper reads off Fig. 5 on trainings with several seeds.

    Depth is the number of a block. The rank correlation (Spearman's) with it is
    1 if a spread grows from each block to the next, and -1 if it shrinks.

    Args:
        measured (list[dict]): Results of :func:`measure_gates` for models of one
            architecture.

    Returns:
        list[str]: A sentence on each of the three claims.
    """
    above = {
        name: [
            np.mean(np.array([*m['blocks'][name]['G'].values()]) > 1) for m in measured
        ]
        for name, block in measured[0]['blocks'].items()
        if 'G' in block
    }
    shares = ', '.join(f'{name} {np.mean(v):.0%}' for name, v in above.items())
    sentences = [f'Share of G above 1 (claim 1: on both sides of 1): {shares}.']
    for key, text in (
        ('spread', 'claim 2: G spreads over the channels with depth'),
        ('class_spread', 'claim 3: classes separate with depth'),
    ):
        by_depth = [[block[key] for block in m['blocks'].values()] for m in measured]
        rho = [stats.spearmanr(range(len(v)), v).statistic for v in by_depth]
        sentences.append(
            f'Rank correlation with depth ({text}): mean {np.mean(rho):+.2f}, '
            f'positive in {sum(r > 0 for r in rho)} of {len(rho)} runs.'
        )
    return sentences


def _rounded(numbers):
    return numbers.round(decimals=6).tolist()


def plot_gates(gates: dict) -> Figure:
    """Draw Fig. 5: G of each channel in the chosen blocks, one line per class.

    Channels are sorted by G. In the order of their index, as in the paper, the
    last line hides the others.

    Args:
        gates (dict): The result of :func:`measure_gates`.
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
    """Draw ``mean``, ``spread`` and ``class_spread`` of all blocks by depth.

    Args:
        gates (dict): The result of :func:`measure_gates`.
    """
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
    """Draw how the gates change the shortcuts of one image, block by block.

    Each chosen block has two maps, both means over the channels: abs(x) of the
    shortcut x (after the projection, if any), and abs(G x) as a fraction of
    abs(x), which is 1 where the gates change nothing on average.

    Args:
        backbone (nn.Module): An RA backbone in evaluation mode.
        image (Tensor): The preprocessed image, (1, 3, H, W).
        picture (np.ndarray): The image to show, RGB, (h, w, 3), integers up to
            255 or floats up to 1. Padding of ``image`` is to the right of it
            and below.
        chosen (list[str]): Blocks to show.
    """
    maps = {}

    def add_maps(name, G, x):
        x = x[0].abs().float().cpu()
        before, after = x.mean(dim=0), (G[0].abs()[:, None, None] * x).mean(dim=0)
        fraction = torch.where(before > 0, after / before, 1.0)
        maps[name] = before.numpy(), fraction.numpy()

    run_with_gates(backbone, image, add_maps)
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
        'The shortcut x and how its gates change it\n'
        '(means over the channels; red: amplified, blue: attenuated)'
    )
    return fig
