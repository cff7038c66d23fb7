"""Errors of a data pipeline name the image, and masks are checked."""

import numpy as np
import pytest
from mmcv.transforms import BaseTransform, LoadAnnotations
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from ra_mm.engine.runner import SafeRunner
from ra_mm.engine.samples import name_samples
from ra_mm.errors import UserError


class Images(BaseDataset):
    ignore_index = 255

    def load_data_list(self):
        return [dict(img_path='a.png'), dict(img_path='b.png', seg_map_path='b.tif')]


class Broken(BaseTransform):
    def transform(self, data):
        raise OSError('it is empty')


def dataset(*steps):
    settings = dict(metainfo=dict(classes=('a', 'b')), max_refetch=0)
    return Images(pipeline=list(steps), serialize_data=False, **settings)


@pytest.mark.parametrize(
    'wrap', [lambda d: d, lambda d: RepeatDataset(d, 2), lambda d: ConcatDataset([d])]
)
def test_error_names_the_image_and_the_transform(wrap):
    wrapped = wrap(dataset(Broken()))
    name_samples(wrapped)
    name_samples(wrapped)  # has no further effect
    for i, expected in enumerate(['a.png', 'b.png.*b.tif']):
        with pytest.raises(UserError, match=f'{expected}.*it is empty.*Broken'):
            wrapped[i]


def test_loaders_of_the_runner():
    settings = dict(dataset=dataset(Broken()), batch_size=1, num_workers=0)
    settings['sampler'] = dict(type='DefaultSampler', shuffle=False)
    loader = SafeRunner.build_dataloader(settings)
    with pytest.raises(UserError, match='a.png'):
        next(iter(loader))


class LoadMask(LoadAnnotations):
    """Put an array where a mask would be loaded."""

    def __init__(self, mask):
        super().__init__(with_bbox=False, with_label=False)
        self.mask = mask

    def transform(self, data):
        return dict(data, gt_seg_map=self.mask, ori_shape=(4, 4))


@pytest.mark.parametrize(
    'mask, reason',
    [
        (np.zeros((4, 4)), None),
        (np.full((4, 4), 255), None),
        (np.full((4, 4), 2), r'\(2\)'),
        (np.zeros((4, 3)), r'\(4, 3\)'),
        (np.zeros((4, 4, 3)), r'\(4, 4, 3\)'),
        (None, None),
    ],
)
def test_mask(mask, reason):
    masks = dataset(LoadMask(mask))
    name_samples(masks)
    if reason is None:
        assert masks[0]['gt_seg_map'] is mask
    else:
        with pytest.raises(UserError, match=f'a.png.*{reason}'):
            masks[0]


def test_a_sample_that_the_pipeline_drops():
    dropping = dataset(lambda data: None, Broken())
    name_samples(dropping)
    assert dropping.pipeline(dict(img_path='a.png')) is None
