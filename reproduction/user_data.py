"""Find the splits of the user's dataset, and make a config train on them."""

import json
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ra_mm.datasets.shapes import CLASSES
from ra_mm.errors import UserError, translate_errors


@dataclass(frozen=True)
class DataFolder:
    """Where the dataloaders find a dataset.

    Attributes:
        root: Absolute path of the folder.
        classes: Names of the classes, in the order of the annotation file, or
            sorted if they are folders.
        train: Annotation file and image folder, relative to ``root``. The file
            is None if folders name the classes.
        val: The same for the validation split.
        masks: Whether all annotations have segmentations.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[str | None, str]
    val: tuple[str | None, str]
    masks: bool = False

    @property
    def is_detection(self) -> bool:
        return self.train[0] is not None


def shapes_folder(folder: Path, is_detection: bool) -> DataFolder:
    """What :func:`ra_mm.datasets.shapes.write_shapes` draws into a folder."""
    if not is_detection:
        return DataFolder(folder / 'classes', CLASSES, (None, 'train'), (None, 'val'))
    splits = {s: (f'annotations/{s}.json', f'images/{s}') for s in ('train', 'val')}
    return DataFolder(folder, CLASSES, masks=True, **splits)


def read_data_folder(folder: Path) -> DataFolder:
    """Inspect the user's dataset: COCO annotations, or class folders.

    Args:
        folder: Has ``annotations/{train,val}.json`` (or COCO's own
            ``annotations/instances_{train,val}2017.json``) and the images in
            ``images/``, ``images/{train,val}/`` or ``{train,val}2017/``; or
            ``train/<class>/`` and ``val/<class>/`` (or ``test/``).

    Raises:
        UserError: If it has neither, lacks a split, or its splits have
            different classes.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise UserError(f'--data {folder}: no such folder')
    if (folder / 'annotations').is_dir():
        return _read_coco(folder)
    if (folder / 'train').is_dir():
        return _read_class_folders(folder)
    text = f'--data {folder} has neither annotations/ (train.json and val.json in COCO'
    raise UserError(f'{text} format) nor train/<class>/ and val/<class>/')


def set_data_folder(cfg: Config, data: DataFolder) -> None:
    """Make a config train and test on a dataset with its classes, in place.

    Args:
        cfg: Config of any toolbox. For mmseg only the folder is changed.
        data: Dataset of the kind that the config needs.
    """
    splits = dict(train=data.train, val=data.val, test=data.val)
    for split, (ann_file, images) in splits.items():
        dataset = cfg[f'{split}_dataloader'].dataset
        if cfg.default_scope == 'mmpretrain':
            new = dict(type='CustomDataset', data_root=str(data.root))
            new |= dict(data_prefix=images, pipeline=dataset.pipeline)
            cfg[f'{split}_dataloader'].dataset = new
        else:
            dataset.data_root = f'{data.root}/'
        if cfg.default_scope == 'mmdet':
            prefix, metainfo = dict(img=f'{images}/'), dict(classes=data.classes)
            dataset.update(ann_file=ann_file, data_prefix=prefix, metainfo=metainfo)
            if split != 'train':
                cfg[f'{split}_evaluator'].ann_file = f'{data.root}/{ann_file}'

    num_classes = len(data.classes)
    if cfg.default_scope == 'mmpretrain':
        topk = (1, 5) if num_classes > 5 else (1,)
        cfg.model.head.update(num_classes=num_classes, topk=topk)
        cfg.data_preprocessor.num_classes = num_classes
        cfg.val_evaluator.topk = cfg.test_evaluator.topk = topk
    elif cfg.default_scope == 'mmdet':
        for name in ('bbox_head', 'mask_head'):
            if name in cfg.model.roi_head:
                cfg.model.roi_head[name].num_classes = num_classes


def _read_coco(folder):
    splits, classes, masks = {}, {}, True
    for split in ('train', 'val'):
        names = (f'annotations/{split}.json', f'annotations/instances_{split}2017.json')
        name = _find(folder, f'the split {split!r}', names)
        path = folder / name
        with translate_errors(f'{path} is not a COCO annotation file with images'):
            coco = json.loads(path.read_text(encoding='utf-8'))
            first = coco['images'][0]['file_name']
            classes[split] = tuple(c['name'] for c in coco['categories'])
            masks &= all(a.get('segmentation') for a in coco['annotations'])
        folders = (f'images/{split}', 'images', f'{split}2017', split)
        what = f'the first image of {name}'
        image = _find(folder, what, [f'{images}/{first}' for images in folders])
        splits[split] = name, image.removesuffix(f'/{first}')
    _check_same_classes(folder, **classes)
    return DataFolder(folder, classes['train'], masks=masks, **splits)


def _read_class_folders(folder):
    val = _find(folder, "the split 'val'", ('val', 'test'))
    splits = []
    for split in ('train', val):
        folders = sorted(p for p in (folder / split).glob('[!.]*') if p.is_dir())
        splits.append(tuple(path.name for path in folders))
        if len(folders) < 2:
            text = f'{folder / split} has {len(folders)} class folder(s)'
            raise UserError(f'{text}: expected 2 or more')
    _check_same_classes(folder, *splits)
    return DataFolder(folder, splits[0], (None, 'train'), (None, val))


def _find(folder, what, names):
    """The first of these names that the folder has."""
    for name in names:
        if (folder / name).exists():
            return name
    raise UserError(f'--data {folder} lacks {what}: expected {" or ".join(names)}')


def _check_same_classes(folder, train, val):
    if train != val:
        found = f'{", ".join(train)} (train), {", ".join(val)} (validation)'
        raise UserError(f'--data {folder}: the splits have different classes: {found}')
