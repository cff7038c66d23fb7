"""The toolboxes' own inferencers load checkpoints of tools/train.py."""

import pickle

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


def predictions(test, config, checkpoint, tmp_path):
    """The predictions of tools/test.py, by the path of the image."""
    out = tmp_path / 'out.pkl'
    test(config, checkpoint, '--out', out)
    return {p['img_path']: p for p in pickle.loads(out.read_bytes())}


def test_detector(configs, checkpoint, test, tmp_path):
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


def test_detector_from_the_checkpoint_alone(configs, checkpoint, shapes):
    """The checkpoint contains the config."""
    files = [str(path) for path in (shapes / 'images/val').iterdir()]
    alone, full = (
        DetInferencer(*args, weights=str(checkpoint), show_progress=False)
        for args in ([], [str(configs / 'detector.py')])
    )
    assert alone(files)['predictions'] == full(files)['predictions']


def test_segmenter(configs, trained, test, tmp_path):
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


def test_classifier(configs, trained, test, tmp_path):
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
