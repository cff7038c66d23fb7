"""Compare attentions in ResNet-18 on CIFAR-10, seed by seed, within a time limit.

All images stay on the GPU, so that a run takes about a minute on a current one::

    python -m benchmarks.cifar10 DATA --out benchmarks/results/h100_cifar10.json

DATA holds ``train`` and ``test`` with one folder of images for each class. Seeds are
the outermost loop: after each seed, all models can be compared. The result is written
after each run; the same command continues it.
"""

import functools
import itertools
import json
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

import ra_mm
from benchmarks.recording import describe_environment, write_results
from ra_mm.cli import positive_int, report_user_errors
from ra_mm.errors import UserError, translate_errors

PROG = 'benchmarks.cifar10'

# The attention of each model, as ra_mm.convert takes it
ATTENTION_OF = {
    'plain': None,
    'SE': 'se',
    'RA': 'ra',
    'RA without annealing': 'ra',
    'gate on F': 'gated_residual',
}
ANNEALED = ('RA', 'gate on F')
ANNEALING = 0.1  # of the training, as in the paper: 10 of 100 epochs
BATCH, LR = 512, 0.4  # images, and the highest learning rate
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


class Split(NamedTuple):
    """Images (N, 3, 32, 32), uint8, and their classes (N,), int64."""

    images: Tensor
    labels: Tensor


def parse_args(argv: list[str]) -> Namespace:
    what = 'Compare attentions in ResNet-18 on CIFAR-10'
    options = dict(description=what, formatter_class=ArgumentDefaultsHelpFormatter)
    parser = ArgumentParser(prog=PROG, **options)
    add = parser.add_argument
    add('data', type=Path, help='folder of train/ and test/')
    add('--out', type=Path, required=True, help='JSON file, to which runs are added')
    add('--minutes', type=float, default=8, help='start no run that would end later')
    models = [*ATTENTION_OF]
    add('--models', nargs='+', choices=models, default=models, help='what to compare')
    add('--seeds', type=positive_int, default=8, help='at most')
    add('--epochs', type=positive_int, default=16)
    add('--images', type=positive_int, help='of each split, by default all')
    add('--no-compile', dest='compile', action='store_false')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args(argv)


# Data


def load_split(folder: Path, args: Namespace) -> Split:
    """Read the images of class folders, in an order that mixes the classes."""
    with translate_errors(f'{folder} has no images in class folders'):
        samples = ImageFolder(folder).samples
    order = np.random.default_rng(0).permutation(len(samples))[: args.images]
    paths, labels = zip(*(samples[i] for i in order))
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda path: np.asarray(default_loader(path)), paths))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Split(images.to(args.device), torch.tensor(labels, device=args.device))


def normalize(images: Tensor) -> Tensor:
    """uint8 to float32 of mean 0 and standard deviation 1."""
    values = torch.tensor([MEAN, STD], device=images.device)
    mean, std = values[..., None, None]
    return (images - mean) / std


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop at random from images that are padded by 4 pixels, and flip half of them."""
    n, device, size = len(images), images.device, images.shape[-1]
    top, left = torch.randint(0, 9, (2, n, 1), generator=generator).to(device)
    flip = torch.rand(n, generator=generator).to(device) < 0.5
    steps = torch.arange(size, device=device)
    columns = torch.where(flip[:, None], steps.flip(0), steps) + left
    rows = (steps + top)[:, :, None]
    padded = pad(images, 4 * [4]).permute(0, 2, 3, 1)
    which = torch.arange(n, device=device)[:, None, None]
    return padded[which, rows, columns[:, None]].permute(0, 3, 1, 2)


# Training


def make_model(name: str, seed: int) -> nn.Module:
    """Build a ResNet-18 for images of 32 pixels.

    Models of one seed have the same initial weights, except for their attentions.
    """
    torch.manual_seed(seed)
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode='fan_out', nonlinearity='relu')
    model.maxpool = nn.Identity()
    if ATTENTION_OF[name]:
        torch.manual_seed(1000 + seed)
        ra_mm.convert(model, ATTENTION_OF[name])
    return model


def get_logits(model: nn.Module, images: Tensor) -> Tensor:
    images = normalize(images).contiguous(memory_format=torch.channels_last)
    # Most CPUs have no fast bfloat16.
    with torch.autocast('cuda', torch.bfloat16, enabled=images.is_cuda):
        return model(images).float()


def train(
    model: nn.Module, annealed: bool, seed: int, data: Split, epochs: int
) -> None:
    model.train()
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, len(data.images))
    steps = epochs * (len(data.images) // size)
    sgd = dict(momentum=0.9, weight_decay=5e-4, nesterov=True)
    optimizer = torch.optim.SGD(model.parameters(), LR, **sgd)
    cycle = dict(pct_start=0.2, cycle_momentum=False)
    schedulers: list = [OneCycleLR(optimizer, LR, steps, **cycle)]
    if annealed:
        schedulers.append(ra_mm.TempSchedule(model, max(1, round(ANNEALING * steps))))
    for _ in range(epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for batch in order[: len(order) // size * size].split(size):
            batch = batch.to(data.images.device)
            logits = get_logits(model, augment(data.images[batch], generator))
            loss = cross_entropy(logits, data.labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()


@torch.no_grad()
def test(model: nn.Module, data: Split) -> float:
    """Return the accuracy in percent."""
    model.eval()
    found = [get_logits(model, x).argmax(1) for x in data.images.split(500)]
    return 100 * (torch.cat(found) == data.labels).sum().item() / len(data.images)


# Results


def start_result(args: Namespace, argv: list[str]) -> dict:
    """Return the content of the result file: its earlier runs, or none."""
    settings = dict(epochs=args.epochs, images=args.images, compile=args.compile)
    if not args.out.exists():
        environment = describe_environment(PROG, argv, args.device)
        return dict(environment=environment, settings=settings, runs=[])
    result = json.loads(args.out.read_text())
    if (old := result['settings']) != settings:
        raise UserError(f'--out {args.out} was made with {old}, not {settings}')
    return result


def run_models(args: Namespace, result: dict) -> None:
    """Train all models with each seed, and write the result after each run."""
    start = time.monotonic()
    done = {(run['model'], run['seed']) for run in result['runs']}
    splits = [load_split(args.data / s, args) for s in ('train', 'test')]
    print(f'{time.monotonic() - start:.0f} s to read the data', flush=True)

    @functools.cache  # compiled once, for the weights of any seed
    def get_model(name):
        model = make_model(name, 0)
        if args.compile:
            model.compile()
        return model.to(args.device, memory_format=torch.channels_last)

    for seed, name in itertools.product(range(args.seeds), args.models):
        if (name, seed) in done:
            continue
        began = time.monotonic()
        needed = min((run['seconds'] for run in result['runs']), default=0)
        if began - start + needed > 60 * args.minutes:
            print(f'No further run ends within {args.minutes:g} minutes')
            break
        model = get_model(name)
        model.load_state_dict(make_model(name, seed).state_dict())
        train(model, name in ANNEALED, seed, splits[0], args.epochs)
        run = dict(model=name, seed=seed, accuracy=test(model, splits[1]))
        run['seconds'] = time.monotonic() - began  # the first also compiles the model
        result['runs'].append(run)
        write_results(result, args.out)
        print(*(f'{key}: {value}' for key, value in run.items()), flush=True)


def main() -> None:
    argv = sys.argv[1:]
    with report_user_errors(PROG):
        args = parse_args(argv)
        run_models(args, start_result(args, argv))


if __name__ == '__main__':
    main()
