"""Load a sample of a dataset through its own pipeline, step by step."""

import copy
import os.path as osp
import random
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ra_mm.checks.masks import StoredImage, read_image, read_mask
from ra_mm.engine.samples import run_step

SEED = 0


@dataclass
class Leaf:
    """A dataset that is not a wrapper, and where it is in the config."""

    key: str
    dataset: Any
    is_train: bool
    mixed_by: Any = None  # a wrapper with a pipeline, such as MultiImageMixDataset

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, empty if the dataset has none."""
        return tuple(getattr(self.dataset, 'metainfo', {}).get('classes') or ())


@dataclass
class Scan:
    """The entries of a dataset, without its images: all, or as many as time allows."""

    num_images: int
    num_scanned: int = 0
    images: Counter = field(default_factory=Counter)  # by class
    objects: Counter = field(default_factory=Counter)  # by class
    folders: dict = field(default_factory=lambda: defaultdict(Counter))  # of labels
    strata: dict = field(default_factory=dict)  # index: folder and classes
    paths: set = field(default_factory=set)  # of the images

    @property
    def is_complete(self) -> bool:
        return self.num_scanned == self.num_images


@dataclass
class Sample:
    """One image: on disk, after its loading steps, and as the network gets it."""

    path: str
    info: dict
    stored: StoredImage | None = None
    error: Exception | None = None
    size: tuple[int, int] | None = None  # loaded, width and height
    brightest: float = 255  # the largest value of the loaded pixels
    boxes: np.ndarray | None = None  # loaded, (N, 4)
    labels: np.ndarray | None = None
    ignored: np.ndarray | None = None
    mask_boxes: np.ndarray | None = None  # (N, 4), all 0 for an empty mask
    mask_values: Counter | None = None  # pixels by (stored, loaded) value
    mask_problem: str | None = None
    # Of the picture that the network gets, over that of its boxes and masks: they
    # are loaded after resizing in evaluations.
    scale: tuple[float, float] = (1, 1)
    packed: dict | None = None  # None if the pipeline drops the sample


def iter_leaves(dataset, key: str, is_train: bool, mixed_by=None) -> Iterator[Leaf]:
    """Yield the datasets within wrappers such as RepeatDataset."""
    children = getattr(dataset, 'datasets', None)
    child = getattr(dataset, 'dataset', None)
    if children is not None:
        for i, each in enumerate(children):
            yield from iter_leaves(each, f'{key}.datasets.{i}', is_train, mixed_by)
    elif child is not None:
        mixer = dataset if getattr(dataset, 'pipeline', None) else mixed_by
        yield from iter_leaves(child, f'{key}.dataset', is_train, mixer)
    else:
        yield Leaf(key, dataset, is_train, mixed_by)


@contextmanager
def fixed_randomness() -> Iterator[None]:
    """Seed the random numbers of the pipelines, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.random.default_generator.manual_seed(SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def scan(leaf: Leaf, seconds: float) -> Scan:
    """Read the entries of a dataset in random order until the time is up."""
    found = Scan(len(leaf.dataset))
    order = list(range(len(leaf.dataset)))
    random.Random(SEED).shuffle(order)
    end = time.monotonic() + seconds
    for index in order:
        info = leaf.dataset.get_data_info(index)
        labels = get_labels(info)
        found.num_scanned += 1
        found.objects.update(labels)
        found.images.update(set(labels))
        path = str(info.get('img_path') or '')
        folder = osp.dirname(path)
        found.paths.add(path)
        if np.ndim(info.get('gt_label', [])) == 0:  # not a list of labels
            found.folders[folder][labels[0]] += 1
        found.strata[index] = (folder, *set(labels))
        if found.num_scanned >= 32 and time.monotonic() > end:
            break
    return found


def get_labels(info: dict) -> list[int]:
    """Return the labels of an entry: of its objects, or of the image."""
    if 'instances' in info:
        labels = [x['bbox_label'] for x in info['instances'] if 'bbox_label' in x]
    else:
        labels = np.atleast_1d(info.get('gt_label', [])).tolist()
    return [int(label) for label in labels]


def choose(found: Scan) -> list[int]:
    """Order the entries so that the first ones cover all classes and folders."""
    seen: set = set()
    first, others = [], []
    for index, names in found.strata.items():
        (others if seen.issuperset(names) else first).append(index)
        seen.update(names)
    # Half of them at random, in case there are many classes.
    mixed = [i for pair in zip(first, others) for i in pair]
    return mixed + first[len(others) :] + others[len(first) :]


def load_samples(
    leaf: Leaf, found: Scan, num: int, seconds: float, limit: float
) -> list[Sample]:
    """Load images through the pipeline of a dataset.

    Args:
        leaf: The dataset.
        found: Its entries.
        num: At least this many images, or all.
        seconds: More are loaded until this time is up.
        limit: No more are loaded after this time.
    """
    start = time.monotonic()
    samples = []
    steps = _copy_steps(leaf.dataset)
    for index in choose(found):
        passed = time.monotonic() - start
        if passed > limit or (len(samples) >= num and passed > seconds):
            break
        samples.append(load_sample(leaf.dataset, index, steps))
    return samples


def _copy_steps(dataset):
    # A copy, since some transforms keep images for the next sample.
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return [copy.deepcopy(s) for s in steps]


def load_sample(dataset, index: int, steps: list) -> Sample:
    """Load one image, and keep what its loading steps have loaded."""
    info = dataset.get_data_info(index)
    path = info.get('img_path')
    sample = Sample(str(path or f'sample {index}'), info)
    if path and osp.isfile(path):
        sample.stored = read_image(path)
    for _ in range(5):  # a random crop may drop the sample
        try:
            data = _run(sample, copy.deepcopy(info), steps)
        except Exception as e:
            traceback.clear_frames(e.__traceback__)  # which hold the image
            sample.error = e
            break
        if data is not None:
            sample.packed = data
            break
    return sample


def _run(sample, data, steps):
    for step in steps:
        data = run_step(step, data)
        if data is None or not isinstance(data, dict):
            return None
        if 'Load' in type(step).__name__:
            _keep_loaded(sample, data)
    return data


def _keep_loaded(sample, data):
    image = data.get('img')
    if image is not None and sample.size is None:
        sample.size = image.shape[1], image.shape[0]
        sample.brightest = float(image.max())
    if 'gt_bboxes' in data and sample.boxes is None:
        boxes = data['gt_bboxes']
        boxes = to_array(getattr(boxes, 'tensor', boxes))
        sample.boxes = boxes.reshape(-1, boxes.shape[-1])
        sample.scale = tuple(data.get('scale_factor', (1, 1)))
        sample.labels = np.array(data.get('gt_bboxes_labels', ()))
        sample.ignored = np.array(data.get('gt_ignore_flags', ()), dtype=bool)
    if 'gt_masks' in data and sample.mask_boxes is None:
        sample.mask_boxes = data['gt_masks'].get_bboxes('hbox').tensor.numpy()
    mask, path = data.get('gt_seg_map'), data.get('seg_map_path')
    if mask is not None and path and sample.mask_values is None:
        sample.mask_values, sample.mask_problem = read_mask(
            path, mask, data.get('ori_shape')
        )


def to_array(values) -> np.ndarray:
    """Copy a tensor or an array."""
    return values.numpy().copy() if hasattr(values, 'numpy') else np.array(values)
