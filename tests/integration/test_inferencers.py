"""The toolboxes' own inferencers load checkpoints of tools/train.py."""

import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.registry import init_default_scope
from mmpretrain.apis import ImageClassificationInferencer
from mmseg.apis import MMSegInferencer

CLASSES = ('circle', 'square', 'star', 'triangle')


@pytest.fixture(scope='module')
def trained(tool, configs, checkpoint, tmp_path_factory):
    """Checkpoints of detector.py, segmenter.py and classifier.py."""
    paths = dict(detector=checkpoint)
    for name, file in (('segmenter', 'iter_2.pth'), ('classifier', 'epoch_1.pth')):
        work_dir = tmp_path_factory.mktemp(name)
        tool('train')(configs / f'{name}.py', '--work-dir', work_dir)
        paths[name] = work_dir / file
    return paths


@pytest.fixture
def images(shapes, tmp_path):
    """Two sizes, each in colour, in grey, and as three equal grey channels."""
    source = cv2.imread(str(min((shapes / 'images/val').iterdir())))
    for name, size in (('small', (48, 80)), ('large', (150, 101))):
        image = cv2.resize(source, size)
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
        cv2.imwrite(str(tmp_path / f'{name}_grey.png'), grey)
        cv2.imwrite(str(tmp_path / f'{name}_twin.png'), np.dstack([grey] * 3))
    return tmp_path


def names(*kinds):
    return [f'{size}{kind}.png' for kind in kinds for size in ('small', 'large')]


def predictions(test, config, checkpoint, tmp_path):
    """The predictions of tools/test.py, by the path of the image."""
    out = tmp_path / 'out.pkl'
    test(config, checkpoint, '--out', out)
    return {p['img_path']: p for p in pickle.loads(out.read_bytes())}


def test_detector(configs, checkpoint, images, test, tmp_path):
    config = configs / 'detector.py'
    infer = DetInferencer(str(config), str(checkpoint), show_progress=False)
    assert tuple(infer.model.dataset_meta['classes']) == CLASSES

    expected = predictions(test, config, checkpoint, tmp_path)
    ours = infer(list(expected), batch_size=8)['predictions']
    assert len(ours) == 8
    for mine, theirs in zip(ours, expected.values()):
        theirs = theirs['pred_instances']
        assert len(theirs['scores']) > 0
        for key in ('labels', 'scores', 'bboxes'):
            np.testing.assert_allclose(
                mine[key], theirs[key].numpy(), rtol=1e-4, atol=1e-3
            )

    files = [str(images / name) for name in names('', '_grey', '_twin')]
    ours = infer(files)['predictions']
    assert ours[2:4] == ours[4:6] and ours[0] != ours[2]
    width, height = np.max(ours[1]['bboxes'], axis=0)[2:]
    assert 80 < width <= 150 and 48 < height <= 101
    arrays = [cv2.imread(path) for path in files]
    assert infer(arrays)['predictions'] == ours


def test_detector_from_the_checkpoint_alone(configs, checkpoint, images):
    """The checkpoint contains the config."""
    files = [str(images / name) for name in names('', '_grey')]
    alone, full = (
        DetInferencer(*args, weights=str(checkpoint), show_progress=False)
        for args in ([], [str(configs / 'detector.py')])
    )
    assert alone(files)['predictions'] == full(files)['predictions']


def test_segmenter(configs, trained, images, test, tmp_path):
    config, checkpoint = configs / 'segmenter.py', trained['segmenter']
    infer = MMSegInferencer(str(config), str(checkpoint))
    assert infer.model.dataset_meta['classes'][1:] == CLASSES

    expected = predictions(test, config, checkpoint, tmp_path)
    ours = infer(list(expected), return_datasamples=True)
    assert len(ours) == 8
    for mine, theirs in zip(ours, expected.values()):
        # The batch size changes the last digits, and so the winner of a tie.
        logits = theirs['seg_logits']['data']
        torch.testing.assert_close(mine.seg_logits.data, logits, rtol=1e-4, atol=1e-4)
        first, second = logits.topk(2, dim=0).values
        sure = first - second > 1e-3
        assert sure.float().mean() > 0.9
        same = mine.pred_sem_seg.data == theirs['pred_sem_seg']['data']
        assert same[0][sure].all()

    files = [str(images / name) for name in names('', '_grey', '_twin')]
    ours = infer(files)['predictions']
    assert [mask.shape for mask in ours] == [(80, 48), (101, 150)] * 3
    assert (ours[2] == ours[4]).all() and (ours[3] == ours[5]).all()


def test_classifier(configs, trained, images, test, tmp_path):
    config, checkpoint = configs / 'classifier.py', trained['classifier']
    init_default_scope('mmpretrain')  # another toolbox may have set its scope
    infer = ImageClassificationInferencer(str(config), str(checkpoint))
    assert tuple(infer.classes) == CLASSES

    expected = predictions(test, config, checkpoint, tmp_path)
    ours = infer(list(expected), batch_size=4)
    for mine, theirs in zip(ours, expected.values()):
        np.testing.assert_allclose(
            mine['pred_scores'], theirs['pred_score'].numpy(), rtol=1e-4
        )

    files = [str(images / name) for name in names('', '_grey', '_twin')]
    ours = [result['pred_scores'] for result in infer(files)]
    np.testing.assert_array_equal(ours[2:4], ours[4:6])
    assert (ours[0] != ours[2]).any()


ONE_LINERS = """
from mmpretrain.apis import ImageClassificationInferencer
print(ImageClassificationInferencer({classifier}, {classifier_pth})(IMAGE))

from mmdet.apis import DetInferencer
DetInferencer({detector}, {detector_pth})(IMAGE, out_dir='detected')

from mmseg.apis import MMSegInferencer
MMSegInferencer({segmenter}, {segmenter_pth})(IMAGE, out_dir='segmented')
"""


def test_one_line_each_in_a_new_process(configs, trained, images):
    """In any folder, without importing ra_mm.

    mmpretrain's comes first, since the others set mmengine's default scope,
    in which mmpretrain then looks for its transforms.
    """
    names = {name: repr(str(configs / f'{name}.py')) for name in trained}
    names.update((f'{name}_pth', repr(str(p))) for name, p in trained.items())
    code = ONE_LINERS.replace('IMAGE', "'small_grey.png'").format(**names)
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=images, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "'pred_class': " in done.stdout
    for folder in ('detected', 'segmented'):
        assert (images / folder / 'vis/small_grey.png').is_file()
