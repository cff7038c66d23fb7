import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
from pycocotools.coco import COCO

from ra_mm.datasets.painting import paint
from ra_mm.datasets.shapes import CLASSES, SEG_METAINFO, main, write_shapes
from ra_mm.errors import UserError

TINY = dict(num_train=2, num_val=1, image_size=64)
TINY |= dict(classes_train=1, classes_val=1, class_size=32)
SMALL = dict(TINY, num_train=40, num_val=10, image_size=(120, 96))
SMALL |= dict(classes_train=6, classes_val=2)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    out_dir = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(out_dir, **SMALL)
    return out_dir


@pytest.fixture()
def tiny(tmp_path):
    write_shapes(tmp_path / 'tiny', **TINY)
    return tmp_path / 'tiny'


def each_image(shapes, split):
    """Yield the COCO entry, the picture, the mask and the annotations."""
    coco = COCO(shapes / f'annotations/{split}.json')
    for info in coco.loadImgs(coco.getImgIds()):
        name = info['file_name']
        image = cv2.imread(str(shapes / f'images/{split}/{name}'))
        mask = cv2.imread(
            str(shapes / f'masks/{split}/{name[:-4]}.png'), cv2.IMREAD_UNCHANGED
        )
        anns = coco.loadAnns(coco.getAnnIds(imgIds=info['id']))
        for ann in anns:
            ann['decoded'] = coco.annToMask(ann)
        yield info, image, mask, anns


def test_seeds(tiny, tmp_path):
    """The same bytes with the same seed, into an empty folder, too; else others."""
    (tmp_path / 'again').mkdir()
    first = contents(tiny)
    write_shapes(tmp_path / 'again', **TINY)
    write_shapes(tmp_path / 'deep/other', **TINY, seed=1)
    assert first == contents(tmp_path / 'again')
    second = contents(tmp_path / 'deep/other')
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_pictures_do_not_depend_on_how_many_there_are(tiny, tmp_path):
    more = dict(TINY, num_train=3, num_val=2, classes_train=2)
    write_shapes(tmp_path / 'more', **more)
    first, second = contents(tiny), contents(tmp_path / 'more')
    pictures = [name for name in first if not name.endswith('.json')]
    assert len(pictures) == 2 * 2 + 2 * 1 + 4 + 4
    assert all(first[name] == second[name] for name in pictures)
    # No two pictures are the same.
    pictures = [second[n] for n in second if n.endswith('.jpg')]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_polygons_masks_and_boxes_agree(shapes, split):
    edges, pixels = 0, 0
    for info, image, mask, anns in each_image(shapes, split):
        size = (info['height'], info['width'])
        assert size == image.shape[:2] == mask.shape == (96, 120)
        assert mask.dtype == np.uint8
        assert 1 <= len(anns) <= 5
        assert sum(ann['decoded'].astype(int) for ann in anns).max() == 1

        # pycocotools draws the polygons with the same classes at each pixel.
        expected = np.ones(size, np.uint8)
        for ann in anns:
            expected[ann['decoded'] == 1] = 1 + ann['category_id']
        inside = mask != 0
        np.testing.assert_array_equal(mask[inside], expected[inside])

        # Only pixels on the outline are ignored.
        outline = np.zeros(size, np.uint8)
        for ann in anns:
            polygon = np.array(ann['segmentation'][0]).reshape(-1, 2)
            points = np.round((polygon - 0.5) * 16).astype(np.int32)
            cv2.polylines(outline, [points], True, 1, 3, shift=4)
        assert (outline[~inside] == 1).all()
        edges += (~inside).sum()
        pixels += inside.size

        for ann in anns:
            polygon = np.array(ann['segmentation'][0]).reshape(-1, 2)
            assert (polygon >= 0).all() and (polygon <= size[::-1]).all()
            low, high = polygon.min(0), polygon.max(0)
            np.testing.assert_allclose(ann['bbox'], [*low, *(high - low)])
            x, y = polygon.T
            shoelace = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
            assert ann['area'] == pytest.approx(shoelace, abs=0.02)
    assert 0 < edges < 0.05 * pixels


def test_classes_are_balanced_and_sizes_spread():
    labels, sides = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        _, _, shapes = paint(rng, rng.integers(4, size=5), (100, 100), (0.16, 0.45))
        labels += [label for label, _ in shapes]
        sides += [np.ptp(polygon, axis=0).max() for _, polygon in shapes]
    counts = np.bincount(labels, minlength=4)
    assert len(labels) > 3 * 100
    assert counts.min() > 0.8 * counts.mean()
    # A triangle's box can be as narrow as 0.75 of its circumscribed circle.
    assert 0.75 * 16 * 0.95 < min(sides) < 20
    assert 40 < max(sides) <= 45.01


def test_a_shape_stands_out_from_its_background():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, mask, _ = paint(rng, [seed % 4], (64, 64), (0.4, 0.8))
        shape = image[mask > 1].mean(0)
        ring = cv2.dilate(np.uint8(mask != 1), np.ones((7, 7))) - (mask != 1)
        assert np.abs(shape - image[ring == 1].mean(0)).max() > 20


def test_class_folders(shapes):
    for split, num in (('train', 6), ('val', 2)):
        folders = sorted((shapes / 'classes' / split).iterdir())
        assert tuple(folder.name for folder in folders) == CLASSES
        for folder in folders:
            files = sorted(folder.iterdir())
            assert len(files) == num
            for file in files:
                assert cv2.imread(str(file)).shape == (32, 32, 3)
    dataset = CustomDataset(data_prefix=str(shapes / 'classes/train'))
    assert tuple(dataset.CLASSES) == CLASSES


def test_mmseg_loads_it(shapes):
    init_default_scope('mmseg')
    dataset = BaseSegDataset(
        data_root=str(shapes),
        data_prefix=dict(img_path='images/val', seg_map_path='masks/val'),
        metainfo=SEG_METAINFO,
        reduce_zero_label=True,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    assert len(dataset) == 10
    assert dataset.metainfo['classes'][0] == 'background'
    for item, (_, _, mask, anns) in zip(dataset, each_image(shapes, 'val')):
        # 0 is the background, then the classes in order; 255 is ignored.
        found = set(np.unique(item['gt_seg_map']))
        assert found == {0, 255, *(ann['category_id'] for ann in anns)}
        assert ((item['gt_seg_map'] == 255) == (mask == 0)).all()


def test_a_complete_folder_is_left_unchanged(tiny):
    times = {path: path.stat().st_mtime_ns for path in tiny.rglob('*')}
    write_shapes(tiny, **TINY)
    assert times == {p: p.stat().st_mtime_ns for p in tiny.rglob('*')}


def test_other_parameters_are_refused(tiny):
    before = contents(tiny)
    with pytest.raises(UserError, match=r'num_train=2 \(.* 3\), seed=0 \(.* 7\)'):
        write_shapes(tiny, **dict(TINY, num_train=3, seed=7))
    assert contents(tiny) == before


@pytest.mark.parametrize('record', [None, 'no json', '{"files": []}', '[]'])
def test_foreign_content_is_refused(tmp_path, record):
    (tmp_path / 'thesis.tex').write_text('precious')
    if record is not None:
        (tmp_path / 'shapes.json').write_text(record)
    before = contents(tmp_path)
    with pytest.raises(UserError, match='no valid shapes.json'):
        write_shapes(tmp_path, **TINY)
    assert contents(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='no valid shapes.json'):
        write_shapes(tmp_path / 'file', **TINY)


@pytest.mark.parametrize(
    'argument',
    [dict(num_train=0), dict(image_size=(200, 8)), dict(image_size=(64, 64, 3))],
    ids=str,
)
def test_bad_arguments(tmp_path, argument):
    with pytest.raises(UserError, match=next(iter(argument))):
        write_shapes(tmp_path / 'out', **dict(TINY, **argument))
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_when_drawing_fails(tmp_path, monkeypatch):

    def full(*args, **kwargs):
        raise OSError('No space left on device')

    monkeypatch.setattr('ra_mm.datasets.shapes._write_classes', full)
    with pytest.raises(OSError, match='No space left'):
        write_shapes(tmp_path / 'out', **TINY)
    assert not any(tmp_path.iterdir())


def test_command_line(tiny, tmp_path, monkeypatch):
    def run(out_dir, *extra):
        options = '--train 2 --val 1 --size 64 64 --classes-train 1 --classes-val 1'
        argv = [str(tmp_path / out_dir), *options.split(), '--class-size', '32', *extra]
        monkeypatch.setattr('sys.argv', ['shapes', *argv])
        main()

    run('good')
    assert contents(tmp_path / 'good') == contents(tiny)
    with pytest.raises(SystemExit, match='seed=-5'):
        run('bad', '--seed', '-5')
    assert not (tmp_path / 'bad').exists()
