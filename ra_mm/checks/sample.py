"""Load a sample of a dataset through its own pipeline, step by step."""

import copy
import os.path as osp
import random
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from ra_mm.checks.disk import StoredImage, read_image, read_mask
from ra_mm.engine.config import iter_unwrapped
from ra_mm.engine.samples import run_step
from ra_mm.errors import UserError, translate_errors

SEED = 0
MIN_SCANNED = 32  # entries, however little time there is
MAX_TRIES = 5  # a random crop may drop a sample


@dataclass
class Scan:
    """The entries of a dataset, without its images: all, or as many as time allows."""

    num_images: int
    objects: Counter = field(default_factory=Counter)  # by class, without crowds
    folders: dict = field(default_factory=lambda: defaultdict(Counter))  # of labels
    strata: dict = field(default_factory=dict)  # index: folder and classes
    paths: set = field(default_factory=set)  # of the images
    masks: set = field(default_factory=set)  # the paths of their masks
    lists: set = field(default_factory=set)  # of labels, if an image has several

    @property
    def is_complete(self) -> bool:
        return len(self.strata) == self.num_images


@dataclass
class Sample:
    """One image: on disk, after its loading steps, and as the network gets it."""

    path: str
    info: dict
    stored: StoredImage | None = None
    error: UserError | None = None
    size: tuple[int, int] | None = None  # loaded, width and height
    brightest: float = 255  # the largest value of the loaded pixels
    boxes: Any = None  # loaded, (N, 4): x1, y1, x2, y2
    labels: Any = None  # of the boxes
    ignored: Any = None
    mask_boxes: Any = None  # (N, 4), all 0 for an empty mask
    mask_values: Counter | None = None  # pixels by (stored, loaded) value
    mask_problem: str | None = None
    # Network input size divided by the size that boxes and masks refer to: they are
    # loaded after resizing in evaluations.
    scale: tuple[float, float] = (1, 1)
    packed: dict | None = None  # None if the pipeline drops the sample


@dataclass
class Part:
    """A dataset that is not a wrapper, its entries, and the loaded samples."""

    key: str  # its path in the config
    dataset: Any
    root: Any  # the outermost wrapper, which may mix images
    scan: Scan
    samples: list[Sample]

    @property
    def is_train(self) -> bool:
        return self.key.startswith('train')

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, empty if the dataset has none."""
        return tuple(getattr(self.dataset, 'metainfo', {}).get('classes') or ())

    @property
    def loaded(self) -> list[Sample]:
        return [s for s in self.samples if s.error is None]

    def share(self, some: list) -> str:
        return f'{len(some)} of {len(self.samples)} images that were looked at'


def load_parts(
    datasets: Mapping[str, Any],
    num: int = 32,
    seconds: float = 1,
    scan_seconds: float = 5,
    limit: float = 30,
) -> list[Part]:
    """Load samples of datasets.

    The state of the random number generators stays as it is.

    Args:
        datasets: Datasets or wrappers of them, by their key in the config. Those
            whose key begins with "train" are trained on.
        num: The number of images to load from each, at least.
        seconds: More are loaded until this time is up.
        scan_seconds: The time to read the entries of each, without images.
        limit: Seconds after which no more images of a dataset are loaded.
    """
    parts = []
    with fixed_randomness():
        for root_key, root in datasets.items():
            for key, dataset in iter_unwrapped(root, root_key):
                if hasattr(dataset, 'get_data_info'):  # one of mmengine's
                    with translate_errors(f'{key} has labels that cannot be read'):
                        scan = scan_entries(dataset, scan_seconds)
                    samples = _load_samples(dataset, scan, num, seconds, limit)
                    parts.append(Part(key, dataset, root, scan, samples))
    return parts


@contextmanager
def fixed_randomness() -> Iterator[None]:
    """Seed the random numbers of the pipelines, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()
    random.seed(SEED)
    np.random.seed(SEED)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(SEED)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def scan_entries(dataset: BaseDataset, seconds: float) -> Scan:
    """Read the entries of a dataset in random order until the time is up."""
    scan = Scan(len(dataset))
    end = time.monotonic() + seconds
    for index in random.Random(SEED).sample(range(len(dataset)), len(dataset)):
        info = dataset.get_data_info(index)
        labels = _get_labels(info)
        scan.objects.update(labels)
        path = str(info.get('img_path') or '')
        folder = osp.dirname(path)
        scan.paths.add(path)
        scan.masks.add(str(info.get('seg_map_path') or ''))
        if np.ndim(info.get('gt_label', [])) == 0:  # not a list of labels
            scan.folders[folder][labels[0]] += 1
        elif 'gt_label' in info:
            scan.lists.add(tuple(labels))
        scan.strata[index] = (folder, *set(labels))
        if len(scan.strata) >= MIN_SCANNED and time.monotonic() > end:
            break
    return scan


def _get_labels(info):
    """Return the labels of an entry: of its objects, or of the image."""
    if 'instances' in info:
        objects = [x for x in info['instances'] if not x.get('ignore_flag')]
        return [int(x['bbox_label']) for x in objects if 'bbox_label' in x]
    return [int(label) for label in np.atleast_1d(info.get('gt_label', []))]


def _choose(scan):
    """Order the entries so that the first ones cover all classes and folders."""
    seen: set = set()
    adds_nothing = {}
    for index, names in scan.strata.items():
        adds_nothing[index] = seen.issuperset(names)
        seen.update(names)
    return sorted(adds_nothing, key=adds_nothing.__getitem__)


def _load_samples(dataset, scan, num, seconds, limit):
    start = time.monotonic()
    samples: list = []
    # A copy, since some transforms keep images for the next sample.
    steps = copy.deepcopy(dataset.pipeline.transforms)
    for index in _choose(scan):
        passed = time.monotonic() - start
        if passed > limit or (len(samples) >= num and passed > seconds):
            break
        info = dataset.get_data_info(index)
        path = info.get('img_path')
        sample = Sample(str(path or f'sample {index}'), info)
        if path and osp.isfile(path):
            sample.stored = read_image(path)
        for _ in range(MAX_TRIES):
            if not sample.error and not sample.packed:
                _load(sample, steps)
        samples.append(sample)
    return samples


def _load(sample, steps):
    """Load one image, and keep what its loading steps have loaded."""
    data = copy.deepcopy(sample.info)
    try:
        for step in steps:
            data = run_step(step, data)
            if not isinstance(data, dict):
                return
            if 'Load' in type(step).__name__:
                _keep_loaded(sample, data)
        sample.packed = data
    except UserError as e:
        cause: Any = e.__cause__
        traceback.clear_frames(cause.__traceback__)  # which hold the image
        sample.error = e


def _keep_loaded(sample, data):
    image = data.get('img')
    if image is not None and sample.size is None:
        sample.size = image.shape[1], image.shape[0]
        sample.brightest = float(image.max())
    if 'gt_bboxes' in data and sample.boxes is None:
        boxes = _to_array(data['gt_bboxes'])
        sample.boxes = boxes.reshape(-1, boxes.shape[-1])
        sample.scale = tuple(data.get('scale_factor', (1, 1)))
        sample.labels = np.array(data.get('gt_bboxes_labels', ()))
        sample.ignored = np.array(data.get('gt_ignore_flags', ()), dtype=bool)
    if 'gt_masks' in data and sample.mask_boxes is None:
        sample.mask_boxes = data['gt_masks'].get_bboxes('hbox').tensor.numpy()
    mask, path = data.get('gt_seg_map'), data.get('seg_map_path')
    if mask is not None and path and sample.mask_values is None:
        found = read_mask(path, mask, data.get('ori_shape'))
        sample.mask_values, sample.mask_problem = found


def get_instances(packed: dict | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the boxes and labels that the network gets, if there are any."""
    instances = getattr((packed or {}).get('data_samples'), 'gt_instances', None)
    if instances is None or 'bboxes' not in instances:
        return None
    return _to_array(instances.bboxes), _to_array(instances.labels)


def _to_array(values):
    """Copy boxes, a tensor or an array."""
    return torch.as_tensor(getattr(values, 'tensor', values)).numpy().copy()
