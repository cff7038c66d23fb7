"""Compare attentions in ResNet-18 on CIFAR-10, seed by seed, within a time limit.

All images stay on the GPU, so that a run takes about a minute on a current one::

    python -m benchmarks.cifar10 DATA --out benchmarks/results/h100_cifar10.json

DATA holds ``train`` and ``test`` with one folder of images for each class. Seeds are
the outermost loop: after each seed, all models can be compared. The result is written
after each run, and ``--resume`` adds the runs that are missing.
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
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


class Split(NamedTuple):
    """Images (N, 3, 32, 32), uint8, and their classes (N,), int64."""

    images: Tensor
    labels: Tensor


def parse_args(argv: list[str]) -> Namespace:
    parser = ArgumentParser(
        prog=PROG,
        description='Compare attentions in ResNet-18 on CIFAR-10',
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('data', type=Path, help='folder of train/ and test/')
    add('--out', type=Path, required=True, help='result file (JSON)')
    add('--resume', action='store_true', help='add to the result file')
    add('--minutes', type=float, default=8, help='start no run that would end later')
    models = [*ATTENTION_OF]
    add('--models', nargs='+', choices=models, default=models, help='what to compare')
    add('--seeds', type=positive_int, default=8, help='at most')
    add('--epochs', type=positive_int, default=16)
    add('--batch-size', type=positive_int, default=512)
    add('--lr', type=float, default=0.4, help='highest learning rate')
    add('--images', type=positive_int, help='of each split, by default all')
    add('--no-compile', dest='compile', action='store_false')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args(argv)


# Data


def load_split(folder: Path, limit: int | None, device: str) -> Split:
    """Read the images of class folders, in an order that mixes the classes."""
    with translate_errors(f'{folder} has no images in class folders'):
        samples = ImageFolder(folder).samples
    order = np.random.default_rng(0).permutation(len(samples))[:limit]
    paths, labels = zip(*(samples[i] for i in order))
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda path: np.asarray(default_loader(path)), paths))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Split(images.to(device), torch.tensor(labels, device=device))


def normalize(images: Tensor) -> Tensor:
    """uint8 to float32 of mean 0 and standard deviation 1."""
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD)
    )
    return (images - mean) / std


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop at random from images that are padded by 4 pixels, and flip half of them."""
    n, device = len(images), images.device
    size = images.shape[-1]
    top, left = torch.randint(0, 9, (2, n, 1), generator=generator).to(device)
    flip = torch.rand(n, generator=generator).to(device) < 0.5
    steps = torch.arange(size, device=device)
    columns = torch.where(flip[:, None], steps.flip(0), steps) + left
    rows = steps + top
    padded = pad(images, 4 * [4])
    which = torch.arange(n, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[
        which, rows[:, :, None], columns[:, None]
    ].permute(0, 3, 1, 2)


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


class Trainer:
    """Trains one kind of model, compiled once, from the weights of any seed."""

    def __init__(self, name: str, args: Namespace) -> None:
        self.name, self.args = name, args
        self.model = make_model(name, 0).to(
            args.device, memory_format=torch.channels_last
        )
        self.forward = torch.compile(self.model) if args.compile else self.model

    def logits(self, images: Tensor) -> Tensor:
        images = normalize(images).contiguous(memory_format=torch.channels_last)
        # Most CPUs have no fast bfloat16.
        with torch.autocast('cuda', torch.bfloat16, enabled=images.is_cuda):
            return self.forward(images).float()

    def train(self, seed: int, data: Split) -> None:
        args, model = self.args, self.model
        model.load_state_dict(make_model(self.name, seed).state_dict())
        model.train()
        generator = torch.Generator().manual_seed(seed)
        size = min(args.batch_size, len(data.images))
        steps = args.epochs * (len(data.images) // size)
        optimizer = torch.optim.SGD(
            model.parameters(), args.lr, 0.9, weight_decay=5e-4, nesterov=True
        )
        schedulers = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer, args.lr, steps, pct_start=0.2, cycle_momentum=False
            )
        ]
        if self.name in ANNEALED:
            length = max(1, round(ANNEALING * steps))
            schedulers.append(ra_mm.TempSchedule(model, length))
        for _ in range(args.epochs):
            order = torch.randperm(len(data.images), generator=generator)
            for batch in order[: len(order) // size * size].split(size):
                batch = batch.to(data.images.device)
                logits = self.logits(augment(data.images[batch], generator))
                loss = cross_entropy(logits, data.labels[batch], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for scheduler in schedulers:
                    scheduler.step()

    @torch.no_grad()
    def test(self, data: Split) -> float:
        """Return the accuracy in percent."""
        self.model.eval()
        right = [
            (self.logits(images).argmax(1) == labels).sum()
            for images, labels in zip(data.images.split(500), data.labels.split(500))
        ]
        return 100 * torch.stack(right).sum().item() / len(data.images)


# Results


def start_result(args: Namespace, argv: list[str]) -> dict:
    """Return the content of the result file: its earlier runs, or none."""
    names = ('epochs', 'batch_size', 'lr', 'images', 'compile')
    settings = {name: getattr(args, name) for name in names}
    if not args.out.exists():
        environment = describe_environment(PROG, argv, args.device)
        return dict(environment=environment, settings=settings, runs=[])
    if not args.resume:
        raise UserError(f'{args.out} exists: pass --resume, or another --out')
    result = json.loads(args.out.read_text())
    if result['settings'] != settings:
        raise UserError(
            f'--resume: {args.out} was made with {result["settings"]}, not {settings}'
        )
    return result


def run_models(args: Namespace, result: dict) -> None:
    """Train all models with each seed, and write the result after each run."""
    start = time.monotonic()
    done = {(run['model'], run['seed']) for run in result['runs']}
    splits = [
        load_split(args.data / s, args.images, args.device) for s in ('train', 'test')
    ]
    print(f'{time.monotonic() - start:.0f} s to read the data', flush=True)
    get_trainer = functools.cache(lambda name: Trainer(name, args))
    seconds: dict[str, float] = {}  # of the latest run of each model
    for seed, name in itertools.product(range(args.seeds), args.models):
        if (name, seed) in done:
            continue
        began = time.monotonic()
        # The first run of each model also compiles it.
        needed = min(seconds.values(), default=0)
        if seconds and began - start + needed > 60 * args.minutes:
            print(f'No further run ends within {args.minutes:g} minutes')
            break
        trainer = get_trainer(name)
        trainer.train(seed, splits[0])
        accuracy = trainer.test(splits[1])
        seconds[name] = time.monotonic() - began
        result['runs'].append(
            dict(model=name, seed=seed, accuracy=accuracy, seconds=seconds[name])
        )
        write_results(result, args.out)
        print(
            f'seed {seed}, {name}: {accuracy:.2f} % in {seconds[name]:.1f} s',
            flush=True,
        )


def main() -> None:
    argv = sys.argv[1:]
    with report_user_errors(PROG):
        args = parse_args(argv)
        run_models(args, start_result(args, argv))


if __name__ == '__main__':
    main()
