"""Find images in class folders and put them through a config's test pipeline."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel
from PIL import Image
from torch import Tensor

from ra_mm.engine.config import iter_unwrapped
from ra_mm.errors import UserError, translate_errors
from ra_mm.validation import shorten

# Image files that mmpretrain's CustomDataset reads.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def find_images(
    root: str | Path, classes: Iterable[str] | None, limit: int
) -> list[tuple[str, Path]]:
    """List the images of class folders, skipping hidden files and folders.

    Args:
        root (str | Path): Folder with one folder of images per class.
        classes (Iterable[str], optional): Names of the folders to list; all if
            None.
        limit (int): Maximum number of images per class; the first by name are
            taken.

    Returns:
        list[tuple[str, Path]]: Class and path of each image.

    Raises:
        UserError: If there is no class folder, or a class is missing or has no
            images.
    """
    folders = {
        path.name: path for path in sorted(Path(root).glob('[!.]*')) if path.is_dir()
    }
    if not folders:
        raise UserError(f'{root} has no folders: expected one per class, with images')
    images = []
    for name in dict.fromkeys(classes or folders):
        if name not in folders:
            known = f'which has {shorten(folders)}'
            raise UserError(f'class {name}: no such folder in {root}, {known}')
        paths = sorted(
            path
            for path in folders[name].rglob('[!.]*')
            if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not paths:
            text = f'{folders[name]} has no images'
            raise UserError(f'{text} ({", ".join(IMAGE_SUFFIXES)})')
        images += [(name, path) for path in paths[:limit]]
    return images


def get_reader(
    cfg: Config, model: BaseModel
) -> Callable[[str | Path], tuple[Tensor, np.ndarray]]:
    """Build a function that reads an image as the model sees it in a test.

    Args:
        cfg (Config): Its test pipeline is used, without loading annotations.
        model (BaseModel): Its data preprocessor is used.

    Returns:
        callable: Takes a path. Returns the preprocessed image, (1, 3, H, W),
        on the model's device; and a picture to show, RGB, (h, w, 3), integers
        up to 255 or floats up to 1. Raises a UserError with the path if the
        image cannot be read.

    Raises:
        UserError: If the config has no test pipeline.
    """
    root: Any = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    _, dataset = next(iter_unwrapped(root, 'test_dataloader.dataset'), ('', root))
    if not dataset.get('pipeline'):
        text = f'{cfg.filename} has no test_dataloader with a pipeline'
        raise UserError(f'{text} to read images')
    labels = re.compile(r'Load\w*Annotations\b')
    steps = [step for step in dataset.pipeline if not labels.search(str(step['type']))]
    pipeline = Compose(steps)

    def read(path):
        with translate_errors(f'{path} cannot be read and put through the pipeline'):
            with Image.open(path) as image:
                image.load()  # OpenCV accepts truncated files
            sample = pipeline(dict(img_path=str(path), img_id=0))
            batch = model.data_preprocessor(pseudo_collate([sample]))
        picture = sample['inputs'].flip(0).permute(1, 2, 0)  # BGR to RGB
        if picture.is_floating_point():  # normalized by the pipeline
            low, high = picture.aminmax()
            picture = (picture - low) / (high - low).clamp(min=1e-6)
        return batch['inputs'], picture.numpy()

    return read
