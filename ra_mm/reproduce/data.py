"""The datasets of a reproduction: the drawn shapes, or the user's own."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ra_mm.datasets.shapes import CLASSES
from ra_mm.fileio import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Dataset:
    """What the dataloaders are told.

    Attributes:
        root (Path): Absolute path of the folder.
        classes (tuple[str]): Names of the classes, in the order of the
            annotation file or sorted as the folders.
        train (tuple[str | None, str]): Annotation file (None: folders name
            the classes) and folder of images, below ``root``.
        val (tuple[str | None, str]): The same of the validation split.
        masks (bool): Whether the annotations have segmentations.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[str | None, str]
    val: tuple[str | None, str]
    masks: bool = False

    @property
    def is_detection(self) -> bool:
        return self.train[0] is not None


def shapes(folder: Path, detection: bool) -> Dataset:
    """What :func:`ra_mm.datasets.shapes.write_shapes` draws there."""
    if not detection:
        return Dataset(folder / 'classes', CLASSES, (None, 'train'), (None, 'val'))
    return Dataset(
        folder,
        CLASSES,
        ('annotations/train.json', 'images/train'),
        ('annotations/val.json', 'images/val'),
        True,
    )


def read(folder: Path) -> Dataset:
    """Look at the user's dataset: COCO annotations, or class folders.

    Args:
        folder (Path): With ``annotations/{train,val}.json`` (or COCO's own
            ``annotations/instances_{train,val}2017.json``) and the images in
            ``images/``, ``images/{train,val}/`` or ``{train,val}2017/``; or
            with ``train/<class>/`` and ``val/<class>/`` (or ``test/``).

    Raises:
        ValueError: If it is neither, lacks a split, or its splits differ in
            their classes.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise ValueError(f'--data {folder}: there is no such folder')
    if (folder / 'annotations').is_dir():
        return _read_coco(folder)
    if (folder / 'train').is_dir():
        return _read_folders(folder)
    raise ValueError(
        f'--data {folder} has neither annotations/ (COCO json: train.json and '
        'val.json) nor train/<class>/ and val/<class>/'
    )


def use(cfg: Config, data: Dataset) -> None:
    """Train and test a config on a dataset, its classes included, in place.

    Args:
        cfg (Config): Of any toolbox. Of mmseg's only the folder changes.
        data (Dataset): Of the kind that the config is for.
    """
    parts = dict(train=data.train, val=data.val, test=data.val)
    for part, (ann_file, images) in parts.items():
        dataset = cfg[f'{part}_dataloader'].dataset
        if cfg.default_scope == 'mmpretrain':
            cfg[f'{part}_dataloader'].dataset = dict(
                type='CustomDataset',
                data_root=str(data.root),
                data_prefix=images,
                pipeline=dataset.pipeline,
            )
        else:
            dataset.data_root = f'{data.root}/'
        if cfg.default_scope == 'mmdet':
            dataset.update(
                ann_file=ann_file,
                data_prefix=dict(img=f'{images}/'),
                metainfo=dict(classes=data.classes),
            )
            if part != 'train':
                cfg[f'{part}_evaluator'].ann_file = str(data.root / ann_file)

    number = len(data.classes)
    if cfg.default_scope == 'mmpretrain':
        topk = (1, 5) if number > 5 else (1,)
        cfg.model.head.update(num_classes=number, topk=topk)
        cfg.data_preprocessor.num_classes = number
        cfg.val_evaluator.topk = cfg.test_evaluator.topk = topk
    elif cfg.default_scope == 'mmdet':
        for name in ('bbox_head', 'mask_head'):
            if name in cfg.model.roi_head:
                cfg.model.roi_head[name].num_classes = number


def _read_coco(folder):
    splits, classes, masks = {}, {}, True
    for split in ('train', 'val'):
        names = (f'annotations/{split}.json', f'annotations/instances_{split}2017.json')
        name = next((n for n in names if (folder / n).is_file()), None)
        if name is None:
            raise ValueError(
                f'--data {folder} has no split {split!r}: there '
                f'is neither {" nor ".join(names)}'
            )
        try:
            coco = json.loads((folder / name).read_text(encoding='utf-8'))
            first = coco['images'][0]['file_name']
            classes[split] = tuple(c['name'] for c in coco['categories'])
            annotations = coco['annotations']
        except (ValueError, KeyError, TypeError, IndexError) as e:
            raise ValueError(
                f'{folder / name} is no COCO annotation file '
                f'with images ({type(e).__name__}: {e})'
            ) from e
        if not annotations:
            raise ValueError(f'{folder / name} has no annotations')
        places = [
            p
            for p in (f'images/{split}', 'images', f'{split}2017', split)
            if (folder / p / first).is_file()
        ]
        if not places:
            raise ValueError(
                f'{folder / name}: its first image {first} is '
                f'neither in images/, images/{split}/, {split}/ '
                f'nor {split}2017/ of {folder}'
            )
        splits[split] = name, places[0]
        masks &= all(a.get('segmentation') for a in annotations)
    _same_classes(folder, classes['train'], classes['val'])
    return Dataset(folder, classes['train'], masks=masks, **splits)


def _read_folders(folder):
    val = next((v for v in ('val', 'test') if (folder / v).is_dir()), None)
    if val is None:
        raise ValueError(
            f"--data {folder} has no split 'val': beside "
            'train/<class>/ a folder val/<class>/ or '
            'test/<class>/ is expected'
        )
    classes = []
    for split in ('train', val):
        classes.append(
            tuple(
                sorted(
                    entry.name for entry in os.scandir(folder / split) if entry.is_dir()
                )
            )
        )
        if len(classes[-1]) < 2:
            raise ValueError(
                f'{folder / split} has {len(classes[-1])} class '
                'folder(s): 2 or more are expected'
            )
        for name in classes[-1]:
            if not any(
                path.suffix.lower() in IMAGE_SUFFIXES
                for path in (folder / split / name).rglob('*')
            ):
                raise ValueError(f'{folder / split / name} has no images')
    _same_classes(folder, *classes)
    return Dataset(folder, classes[0], (None, 'train'), (None, val))


def _same_classes(folder, train, val):
    if train != val:
        raise ValueError(
            f'--data {folder}: its splits differ in their '
            f'classes: {", ".join(train)} (train) and '
            f'{", ".join(val)} (validation)'
        )
