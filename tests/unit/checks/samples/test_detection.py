"""Boxes and instance masks, against the images as they are loaded."""

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from PIL import Image
from pycocotools import mask as coco_mask


def turn(coco, orientation):
    """Set an EXIF orientation, and leave the pixels and the boxes as they are."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (coco.root / 'images').iterdir():
        Image.open(path).save(path, exif=exif)


def test_images_that_exif_turns(coco, error):
    turn(coco, 6)
    text = error(coco.build())
    assert '64 x 48' in text and '48 x 64' in text and '.jpg' in text
    step = 'train_dataloader.dataset.pipeline.0'
    assert f'{step}.color_type=color_ignore_orientation' in text


def test_annotations_of_the_turned_images(coco, look):
    turn(coco, 6)
    for image in coco.content['images']:
        image.update(width=48, height=64)
    assert look(coco.build()) == ([], [])


def test_images_that_exif_turns_upside_down(coco, warning):
    turn(coco, 3)
    assert 'EXIF' in warning(coco.build())


def test_images_that_were_resized(coco, error):
    for path in (coco.root / 'images').iterdir():
        Image.open(path).resize((128, 96)).save(path)
    text = error(coco.build())
    assert '64 x 48' in text and '128 x 96' in text


def test_one_image_of_another_size_is_a_warning(tmp_path, coco, warning):
    many = type(coco)(tmp_path / 'many', num=30)
    path = next((many.root / 'images').iterdir())
    Image.open(path).resize((128, 96)).save(path)
    assert str(path) in warning(many.build())


@DATASETS.register_module()
class OwnDataset(CocoDataset):
    """A dataset that is not read as COCO, as far as one can tell."""

    def load_data_list(self):
        return super().load_data_list()


def test_boxes_beyond_the_images(coco, error):
    for annotation in coco.content['annotations']:
        annotation['bbox'][2] += 60
    text = error(coco.build(type='OwnDataset'))
    assert '24 of 24 boxes' in text and '64 x 48' in text and '.jpg' in text


def test_masks_beside_their_boxes(coco, error):
    for annotation in coco.content['annotations']:
        (polygon,) = annotation['segmentation']
        polygon[::2], polygon[1::2] = (
            [40 + x for x in polygon[1::2]], [x / 2 for x in polygon[::2]])  # fmt: skip
    assert 'hardly meets' in error(coco.build(with_mask=True))


def test_masks_outside_the_image(coco, error):
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = [[v + 200 for v in annotation['segmentation'][0]]]
    assert 'without a pixel' in error(coco.build(with_mask=True))


def run_lengths(annotation, *size):
    rle = coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], *size))
    return dict(size=rle['size'], counts=rle['counts'].decode())


def test_run_lengths_of_another_size(coco, error):
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = run_lengths(annotation, 64, 48)
    assert 'size of an RLE' in error(coco.build(with_mask=True))


@pytest.mark.parametrize('num', [1, 24])
def test_run_lengths_that_polygons_cannot_hold(coco, look, num):
    for annotation in coco.content['annotations'][:num]:
        annotation['segmentation'] = run_lengths(annotation, 48, 64)
    found = look(coco.build(with_mask=True, poly2mask=False))
    assert [len(texts) for texts in found] == ([1, 0] if num == 24 else [0, 1])
    assert f'{num} with an RLE, which poly2mask=False ignores' in str(found)


def test_polygons_of_two_points(coco, error):
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = [[1, 1, 20, 20]]
    assert 'less than three points' in error(coco.build(with_mask=True))


def test_most_objects_are_crowds(coco, warning):
    for annotation in coco.content['annotations'][:20]:
        annotation['iscrowd'] = 1
    assert '20 marked as crowd' in warning(coco.build())


def test_pipeline_that_loses_the_objects(coco, error):
    step = dict(type='FilterAnnotations', min_gt_bbox_wh=(30, 30))
    assert 'dropped with their image' in error(coco.build(steps=[step]))


def test_class_whose_objects_are_all_crowds(coco, warning):
    for annotation in coco.content['annotations']:
        annotation['iscrowd'] = int(annotation['category_id'] == 7)
    assert 'nothing of (dog)' in warning(coco.build())


@pytest.mark.parametrize('content', [b'', b'GIF89a no image'])
def test_image_that_cannot_be_read(coco, error, content):
    path = coco.root / 'images/003.jpg'
    path.write_bytes(content)
    assert str(path) in error(coco.build())


def test_image_that_ends_early(coco, error):
    path = coco.root / 'images/003.jpg'
    path.write_bytes(path.read_bytes()[:-800])
    assert str(path) in error(coco.build())


@pytest.mark.parametrize('part', ['training', 'validation'])
def test_class_of_the_other_data_alone(tmp_path, coco, warning, part):
    other = type(coco)(tmp_path / 'other').build()
    for annotation in coco.content['annotations']:
        annotation['category_id'] = 3
    own = coco.build()
    train, val = (own, other) if part == 'training' else (other, own)
    val['test_mode'] = True
    assert f'the {part} data has nothing of (dog)' in warning(train, val)
