"""Reverse attention in torchvision's ResNet-18, without OpenMMLab, on a CPU.

It draws a small dataset, converts the network, trains it, and plots how its gates
open::

    pip install . torchvision opencv-python-headless matplotlib
    python examples/torchvision_shapes.py
"""

import ra_mm.threads  # isort: skip

import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import ra_mm
from ra_mm.datasets.shapes import write_shapes
from ra_mm.layers import MGRN

matplotlib.use('agg')
from matplotlib import pyplot as plt


def parse_args(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--images', type=int, default=400, help='images of each class')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/example'))
    return parser.parse_args(argv)


def make_loaders(folder: Path, images: int) -> tuple[DataLoader, DataLoader]:
    """Draw pictures of four shapes, and load them with torchvision."""
    write_shapes(
        folder, num_train=1, num_val=1, classes_train=images, classes_val=images // 4
    )
    steps = [transforms.ToTensor(), transforms.Normalize(3 * [0.5], 3 * [0.25])]
    augment = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    train = ImageFolder(folder / 'classes/train', transforms.Compose(augment + steps))
    val = ImageFolder(folder / 'classes/val', transforms.Compose(steps))
    return DataLoader(train, 32, shuffle=True, drop_last=True), DataLoader(val, 100)


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: DataLoader
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the accuracy, and the gates of each block: (images, channels)."""
    gates = {name: [] for name, m in model.named_modules() if isinstance(m, MGRN)}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, G, kept=kept: kept.append(G)
        )
        for name, kept in gates.items()
    ]
    model.eval()
    right = [(model(x).argmax(1) == y).float() for x, y in loader]
    for handle in handles:
        handle.remove()
    blocks = {
        name.removesuffix('.attention.gate'): torch.cat(kept)
        for name, kept in gates.items()
    }
    return torch.cat(right).mean().item(), blocks


def plot(history: list[dict], path: Path) -> None:
    """Draw accuracy and temp by epoch, and the gates of the last epoch by block."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    epochs = range(1, len(history) + 1)
    left.plot(epochs, [h['accuracy'] for h in history], 'o-', color='tab:blue')
    left.set(xlabel='epoch', ylabel='validation accuracy', ylim=(0, 1))
    left.yaxis.label.set_color('tab:blue')
    temp = left.twinx()
    temp.plot(epochs, [h['temp'] for h in history], 's--', color='tab:orange')
    temp.set_ylabel('temp', color='tab:orange')
    temp.set_ylim(0)

    gates = history[-1]['gates']
    right.axhline(1, color='gray', linewidth=1)
    right.boxplot(
        [G.flatten().numpy() for G in gates.values()], whis=(5, 95), showfliers=False
    )
    right.set_xticks(range(1, len(gates) + 1), gates, rotation=45)
    right.set(ylabel='G', title='Gates of all channels and validation images')
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict:
    args = parse_args(argv)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    train, val = make_loaders(args.out / 'shapes', args.images)

    # weights='DEFAULT' would start from ImageNet: the conversion keeps the weights.
    model = torchvision.models.resnet18(num_classes=4).eval()
    images = next(iter(val))[0]
    with torch.no_grad():
        before = model(images)
        ra_mm.convert(model)
        difference = (model(images) - before).abs().max().item()
    print(f'largest difference of the outputs before training: {difference:.1e}')

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    steps = args.epochs * len(train)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    schedule = ra_mm.TempSchedule(model, length=max(1, steps // 4))
    history, start = [], time.time()
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for x, y in train:
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            schedule.step()
            total += loss.item() / len(train)
        accuracy, gates = evaluate(model, val)
        history.append(dict(accuracy=accuracy, temp=schedule.temp, gates=gates))
        spread = torch.cat([G.flatten() for G in gates.values()]).std()
        print(
            f'epoch {epoch + 1}/{args.epochs}: loss {total:.3f}, accuracy '
            f'{accuracy:.3f}, temp {schedule.temp:.1f}, standard deviation of G '
            f'{spread:.3f}, {time.time() - start:.0f} s',
            flush=True,
        )
    plot(history, args.out / 'gates.png')
    torch.save(model.state_dict(), args.out / 'model.pth')
    print(f'gates and curves: {args.out / "gates.png"}')
    return history


if __name__ == '__main__':
    main()
