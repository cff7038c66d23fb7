"""Data sets of different make that nothing is wrong with: no error, no warning."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask


@pytest.mark.parametrize('with_mask', [False, True])
@pytest.mark.parametrize('poly2mask', [False, True])
def test_coco(coco, look, with_mask, poly2mask):
    assert look(coco.build(with_mask=with_mask, poly2mask=poly2mask)) == ([], [])


def test_coco_with_crowds_and_run_lengths(coco, look):
    for i, annotation in enumerate(coco.content['annotations'][:6]):
        rle = coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], 48, 64))
        rle['counts'] = rle['counts'].decode()
        annotation.update(segmentation=rle, iscrowd=i % 2)
    assert look(coco.build(with_mask=True)) == ([], [])


def test_coco_with_images_without_objects(coco, look):
    coco.content['annotations'] = coco.content['annotations'][8:]
    assert look(coco.build()) == ([], [])
    assert look(coco.build(filter_cfg=None)) == ([], [])


def test_coco_with_usual_augmentation(coco, look):
    steps = [
        dict(type='RandomResize', scale=[(96, 64), (64, 48)], keep_ratio=True),
        dict(type='RandomCrop', crop_size=(40, 40)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
    ]
    errors, _ = look(coco.build(steps=steps))
    assert not errors


def test_grey_images(coco, look):
    for path in (coco.root / 'images').iterdir():
        Image.open(path).convert('L').save(path)
    assert look(coco.build()) == ([], [])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda d: dict(type='RepeatDataset', times=3, dataset=d),
        lambda d: dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=d),
        lambda d: dict(type='ConcatDataset', datasets=[d, d]),
    ],
)
def test_wrappers(coco, look, wrap):
    assert look(wrap(coco.build())) == ([], [])


def test_a_fault_within_wrappers(coco, error):
    (coco.root / 'images/003.jpg').write_bytes(b'')
    inner = dict(type='ConcatDataset', datasets=[coco.build()])
    text = error(dict(type='RepeatDataset', times=2, dataset=inner))
    assert text.startswith('train_dataloader.dataset.dataset.datasets.0: ')


def test_mosaic(coco, look):
    settings = dict(
        type='MultiImageMixDataset',
        dataset=dict(coco.build(), pipeline=coco.build()['pipeline'][:2]),
        pipeline=[
            dict(type='Mosaic', img_scale=(64, 64)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    )
    assert look(settings) == ([], [])


def test_class_folders_in_the_order_of_names(tmp_path, make_folders, look):
    names = sorted(('größe', '犬', 'кот', 'café au lait', '1', '10', '2'))
    assert look(make_folders(tmp_path, classes=tuple(names)).build()) == ([], [])


def test_lists(folders, look):
    assert look(folders.build(ann_file=folders.write_list())) == ([], [])


def test_images_that_exif_turns_are_no_matter_without_positions(folders, look):
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in folders.root.glob('*/*'):
        Image.open(path).save(path.with_suffix('.jpg'), exif=exif)
        path.unlink()
    assert look(folders.build()) == ([], [])


def test_imagenet_layout(tmp_path, make_folders, look):
    """Folders have WordNet ids, the classes other names."""
    ids = ('n01440764', 'n01443537', 'n01484850')
    train = make_folders(tmp_path / 'train', classes=ids)
    val = make_folders(tmp_path / 'val', classes=ids)
    (tmp_path / 'meta').mkdir()
    lines = [f'{p.relative_to(val.root)} {ids.index(p.parent.name)}'
             for p in val.root.glob('*/*')]  # fmt: skip
    (tmp_path / 'meta/val.txt').write_text('\n'.join(lines))
    train.classes = val.classes = ('tench', 'goldfish', 'great white shark')
    assert look(
        train.build(type='CustomDataset', data_root=str(tmp_path), data_prefix='train'),
        val.build(
            type='ImageNet', data_root=str(tmp_path), split='val', data_prefix='val'
        ),
    ) == ([], [])


def test_ade20k_layout(tmp_path, masks, look):
    """0 is 'other objects', the 150 classes are 1 to 150."""
    parts = masks, type(masks)(tmp_path / 'val')
    values = (np.arange(48 * 64) // 20 % 151).reshape(48, 64).astype(np.uint8)
    for part in parts:
        part.edit(lambda m: values)
    settings = dict(type='ADE20KDataset', reduce_zero_label=True, metainfo={})
    assert look(*(part.build(**settings) for part in parts)) == ([], [])


def test_split_file(masks, look):
    (masks.root / 'split.txt').write_text('000\n001\n005\n')
    errors, warnings = look(masks.build(ann_file='split.txt'))
    assert (errors, warnings) == ([], [])


def test_ignored_borders(masks, look):
    def border(mask):
        mask = mask.copy()
        mask[:2] = 255
        return mask

    masks.edit(border)
    assert look(masks.build()) == ([], [])


def test_random_numbers_stay_as_they_are(coco, look):
    np.random.seed(5)
    first = np.random.rand()
    np.random.seed(5)
    look(coco.build(steps=[dict(type='RandomFlip', prob=0.5)]))
    assert np.random.rand() == first
