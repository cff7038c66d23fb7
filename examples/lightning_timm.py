"""Reverse attention in a model of timm, trained by Lightning on a CPU.

It draws a small dataset, converts a ResNet, trains it with a moving average of its
weights, and reads the checkpoint again::

    pip install . lightning timm torchvision opencv-python-headless
    python examples/lightning_timm.py
"""

import ra_mm.threads  # isort: skip

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import lightning
import timm
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import ra_mm
from ra_mm.adapters.lightning import TempCallback
from ra_mm.datasets.shapes import write_shapes


class Classifier(lightning.LightningModule):
    """A converted model of timm; pretrained=True would start from ImageNet."""

    def __init__(self, name: str = 'resnet10t', classes: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = ra_mm.convert(timm.create_model(name, num_classes=classes))

    def training_step(self, batch: list) -> Tensor:
        images, labels = batch
        return cross_entropy(self.model(images), labels)

    def validation_step(self, batch: list) -> None:
        images, labels = batch
        right = (self.model(images).argmax(1) == labels).float().mean()
        self.log('accuracy', right, prog_bar=True)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.05)
        steps = self.trainer.estimated_stepping_batches
        decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
        scheduler = dict(scheduler=decay, interval='step')
        return dict(optimizer=optimizer, lr_scheduler=scheduler)


def main(argv: Sequence[str] | None = None) -> float:
    parser = ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--images', type=int, default=400, help='images of each class')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/lightning'))
    args = parser.parse_args(argv)
    folder = args.out / 'shapes'
    write_shapes(folder, 1, 1, classes_train=args.images, classes_val=args.images // 4)
    steps = [transforms.ToTensor(), transforms.Normalize(3 * [0.5], 3 * [0.25])]
    flips = [transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()]
    train, val = (
        ImageFolder(folder / 'classes' / split, transforms.Compose(augment + steps))
        for split, augment in (('train', flips), ('val', []))
    )
    loader = DataLoader(train, 32, shuffle=True, drop_last=True)
    annealed = max(1, args.epochs * len(loader) // 4)  # steps in which temp falls
    lightning.seed_everything(0)
    trainer = lightning.Trainer(
        accelerator='cpu',
        max_epochs=args.epochs,
        default_root_dir=args.out,
        logger=False,
        callbacks=[TempCallback(annealed), EMAWeightAveraging(decay=0.9)],
    )
    trainer.fit(Classifier(), loader, DataLoader(val, 100))
    path = args.out / 'last.ckpt'
    trainer.save_checkpoint(path)
    loaded = Classifier.load_from_checkpoint(path, map_location='cpu')
    (result,) = trainer.validate(loaded, DataLoader(val, 100))
    print(f'{path}: accuracy {result["accuracy"]:.3f}')
    return result['accuracy']


if __name__ == '__main__':
    main()
