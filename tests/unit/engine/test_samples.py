"""Errors of a data pipeline name the image, and masks are checked."""

import numpy as np
import pytest
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from ra_mm.engine.runner import SafeRunner
from ra_mm.engine.samples import MaskCheck, name_samples
from ra_mm.errors import UserError


class Images(BaseDataset):
    def load_data_list(self):
        return [dict(img_path='a.png'), dict(img_path='b.png', seg_map_path='b.tif')]


def fail(data):
    raise OSError('it is empty')


def dataset(step=fail):
    return Images(pipeline=[step], max_refetch=0, serialize_data=False)


@pytest.mark.parametrize(
    'wrap', [lambda d: d, lambda d: RepeatDataset(d, 2), lambda d: ConcatDataset([d])]
)
def test_error_names_the_image(wrap):
    wrapped = wrap(dataset())
    name_samples(wrapped)
    name_samples(wrapped)  # has no further effect
    for i, expected in enumerate(['a.png', 'b.png.*b.tif']):
        with pytest.raises(UserError, match=f'{expected}.*it is empty'):
            wrapped[i]


def test_error_names_the_line_of_a_transform():
    """Where the user's own code is: not where a library that it calls fails."""

    def call_a_library(data):
        return np.zeros(3).reshape(2, 2)

    for step in (fail, call_a_library):
        named = dataset(step)
        name_samples(named)
        line = step.__code__.co_firstlineno + 1
        with pytest.raises(UserError) as e:
            named[0]
        assert f'({__file__}, line {line})' in str(e.value)


def test_error_of_a_library_has_no_line():
    named = dataset(LoadImageFromFile())
    name_samples(named)
    with pytest.raises(UserError, match='a.png') as e:
        named[0]
    assert ', line ' not in str(e.value)


def test_loaders_of_the_runner():
    loader = SafeRunner.build_dataloader(
        dict(
            dataset=dataset(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
            num_workers=0,
        )
    )
    with pytest.raises(UserError, match='a.png'):
        next(iter(loader))


def test_masks_are_checked_after_loading():
    checked = Images(
        pipeline=[LoadAnnotations(with_bbox=False, with_label=False)],
        serialize_data=False,
    )
    name_samples(checked)
    assert [type(step) for step in checked.pipeline.transforms] == [
        LoadAnnotations,
        MaskCheck,
    ]


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
    masks = Images(pipeline=[], metainfo=dict(classes=('a', 'b')), serialize_data=False)
    masks.ignore_index = 255
    data = dict(gt_seg_map=mask, ori_shape=(4, 4))
    if reason is None:
        assert MaskCheck(masks)(data) is data
    else:
        with pytest.raises(ValueError, match=reason):
            MaskCheck(masks)(data)
