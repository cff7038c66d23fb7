"""The values of masks as they are stored, against those that are loaded."""

import numpy as np
import pytest
from PIL import Image


def test_objects_saved_as_255(masks, error):
    masks.classes = ('ground', 'object')
    masks.edit(lambda m: ((m > 0) * 255).astype(np.uint8))
    text = error(masks.build())
    assert '(object)' in text and '(255)' in text and '1 for object' in text


@pytest.mark.parametrize('change', [lambda m: m + 256, lambda m: m * 256])
def test_values_of_16_bits(masks, error, change):
    masks.edit(
        lambda m: np.where(m > 0, change(m.astype(np.uint16)), 0).astype(np.uint16)
    )
    text = error(masks.build())
    values = {int(change(np.uint16(v))) for v in (1, 2)}
    assert all(str(v) in text for v in values) and 'masks/0' in text


def test_value_that_is_no_class(masks, error):
    masks.edit(lambda m: np.where(m == 2, 7, m).astype(np.uint8))
    text = error(masks.build())
    assert '(7)' in text and '0 to 2' in text


def test_value_that_is_no_class_with_reduce_zero_label(masks, error):
    """The message has the value of the file, not what became of it."""
    masks.edit(lambda m: np.where(m == 2, 7, m + 1).astype(np.uint8))
    text = error(masks.build(reduce_zero_label=True))
    assert '(7)' in text and '1 to 3' in text


def test_masks_in_colours(masks, error):
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    masks.edit(lambda m: colors[m])
    text = error(masks.build())
    assert 'masks/0' in text and 'colours' in text


def test_mask_of_another_size(masks, error):
    masks.write_mask(3, np.zeros((24, 32), np.uint8))
    text = error(masks.build())
    assert 'masks/003.png' in text and '(24, 32)' in text and '(48, 64)' in text


def test_last_class_is_lost_by_reduce_zero_label(masks, warning):
    text = warning(masks.build(reduce_zero_label=True))
    assert 'no pixel of (dog)' in text and '(0)' in text


def test_most_pixels_are_ignored(masks, warning):
    masks.edit(lambda m: np.where(m == 0, 255, np.where(m == 2, 0, m)).astype(np.uint8))
    masks.classes = ('dog', 'cat')
    text = warning(masks.build())
    assert '(255)' in text and '%' in text


def test_validation_of_ignored_pixels(tmp_path, masks, error):
    empty = type(masks)(tmp_path / 'empty')
    empty.edit(lambda m: 0 * m + 255)
    assert error(masks.build(), empty.build()).startswith('val_dataloader')


def test_images_of_another_suffix(masks, look):
    for i in (1, 2, 3):
        path = masks.root / 'images' / f'{i:03}.jpg'
        path.rename(path.with_suffix('.JPG'))
    _, (text, other) = look(masks.build())
    assert '3 with .JPG' in text and '9 images' in text and '3 masks' in other


def test_mask_without_an_image(masks, warning):
    (masks.root / 'images/003.jpg').unlink()
    assert 'masks/003.png' in warning(masks.build())


def test_masks_beside_their_images(masks, look):
    for path in (masks.root / 'masks').iterdir():
        path.rename(masks.root / 'images' / f'{path.stem}_mask.png')
    prefix = dict(img_path='images', seg_map_path='images')
    assert look(masks.build(data_prefix=prefix, seg_map_suffix='_mask.png')) == ([], [])


def with_palette(mask):
    image = Image.fromarray(mask, 'P')
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    return image


@pytest.mark.parametrize('change', [with_palette, lambda m: m.astype(np.uint16)])
def test_masks_of_other_kinds(masks, look, change):
    masks.edit(change)
    assert look(masks.build()) == ([], [])


def test_palette_that_is_loaded_as_colours(masks, look):
    """OpenCV does, and then the colours are taken for classes."""
    masks.edit(with_palette)
    settings = masks.build()
    settings['pipeline'][1]['imdecode_backend'] = 'cv2'
    errors, _ = look(settings)
    assert len(errors) == 1


def test_masks_of_one_bit(masks, look):
    masks.classes = ('ground', 'object')
    masks.edit(lambda m: Image.fromarray(m > 0))
    assert look(masks.build()) == ([], [])


def test_rare_classes_of_many(tmp_path, masks, look):
    """A sample of many classes does not have all of them."""
    masks.classes = tuple(f'class {i}' for i in range(150))
    many = type(masks)(tmp_path / 'many', num=40)
    many.classes = masks.classes
    for i in range(40):
        many.write_mask(i, many.values(i) + i)
    assert look(many.build()) == ([], [])


def test_masks_as_jpeg(masks, error):
    for path in (masks.root / 'masks').iterdir():
        Image.open(path).save(path.with_suffix('.jpeg'))
    assert 'JPEG' in error(masks.build(seg_map_suffix='.jpeg'))


def test_several_masks_of_an_image(masks, warning):
    for path in [*masks.root.glob('masks/*.png')]:
        Image.open(path).save(path.with_name(f'{path.stem}_mask_1.png'))
        path.rename(path.with_name(f'{path.stem}_mask.png'))
    assert '12 masks have no image' in warning(masks.build(seg_map_suffix='_mask.png'))
