"""The models, inputs and variants that ``tools/benchmark.py`` measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import nn

from ra_mm.layers import ATTENTIONS
from ra_mm.models import build_model
from reproduction import paper

CONFIGS = dict(
    resnet18='r18', resnet50='r50', resnet101='r101', mobilenetv2='mobilenetv2_1.0'
)
# The sides of images under mmdet's usual settings, over the shorter one of 800
DETECTOR_SIDES = ((1, 1.666), (1, 1.333), (1.333, 1), (1, 1.5), (1.5, 1))


class Variant(NamedTuple):
    """What is measured beside the plain model.

    Attributes:
        attention: A key of ATTENTIONS; '' for the plain model.
        path: The path of the tail; None for the default.
        compiles: Whether the backbone is 'compiled', compiled with CUDA 'graphs', or
            'chosen' to be compiled if that is faster, as in a long training.
    """

    attention: str
    path: str | None = None
    compiles: str = ''


# Rivals and controls without configs of their own: they replace RA in its configs.
RIVALS = ('simam', 'eca', 'grn', 'static_gate', 'gated_residual')
VARIANTS = {
    'plain': Variant(''),
    'se': Variant('se'),
    'cbam': Variant('cbam'),
    'ra': Variant('ra', compiles='chosen'),
    'plain-chosen': Variant('', compiles='chosen'),
    'ra-naive': Variant('ra', 'reference'),
    'ra-fused_sum': Variant('ra', 'fused_sum'),
    'ra-fused': Variant('ra', 'fused'),
    'plain+compile': Variant('', compiles='compiled'),
    'ra+compile': Variant('ra', compiles='compiled'),
    'plain+graphs': Variant('', compiles='graphs'),
    'ra+graphs': Variant('ra', compiles='graphs'),
    **{name: Variant(name) for name in RIVALS},
}


@dataclass(frozen=True)
class Case:
    """The settings of one measurement, the same for all its variants.

    Attributes:
        what (str): 'train' for an SGD step of a classifier; 'infer' for its
            forward pass; 'detector' for an SGD step of Faster R-CNN with images of
            different sizes; 'segmenter' for one of UperNet.
        model (str): The backbone, a key of CONFIGS.
        device (str): 'cpu' or 'cuda'.
        precision (str): 'fp32' (TF32 off), 'tf32' (TF32 allowed in
            convolutions and matrix products) or 'amp' (autocast to bfloat16).
        layout (str): 'nchw', or 'nhwc' for channels-last.
        batch (int): The number of images.
        size (int): The side of an image in pixels; in a detector, the shorter one.
    """

    what: str
    model: str
    device: str
    precision: str
    layout: str
    batch: int
    size: int

    def config(self, attention: str) -> Path:
        """Find the config with this attention, or with RA in its place."""
        if attention in RIVALS:
            attention = 'ra'
        name = f'{attention}_{CONFIGS[self.model]}.py'.removeprefix('_')
        folder = dict(detector='faster_rcnn_', segmenter='upernet_')
        return paper.CONFIGS / (folder.get(self.what, 'imagenet/') + name)

    def build(self, attention: str) -> nn.Module:
        """Build the untrained model."""
        cfg = Config.fromfile(self.config(attention))
        cfg.model.backbone.init_cfg = None
        if attention in RIVALS:
            kind = f'ra_mm.{ATTENTIONS[attention].__name__}'
            cfg.model.backbone.attention = dict(type=kind)
        return build_model(cfg)

    def place(self, t: Any) -> Any:
        """Move a tensor or a module to the device, in the layout."""
        formats = dict(nhwc=torch.channels_last, nchw=torch.contiguous_format)
        return t.to(self.device, memory_format=formats[self.layout])

    def inputs(self) -> list[tuple[torch.Tensor, Any]]:
        """Make batches of random images with their labels or data samples."""
        torch.manual_seed(0)
        if self.what in ('train', 'infer'):
            labels = torch.randint(1000, (self.batch,), device=self.device)
            return [(self._images(self.size, self.size), labels)]
        sides = DETECTOR_SIDES if self.what == 'detector' else [(1, 1)]
        batches = []
        for ratios in sides:  # padded to multiples of 32
            shape = tuple(-(-round(self.size * ratio) // 32) * 32 for ratio in ratios)
            sample = random_boxes if self.what == 'detector' else random_map
            samples = [sample(shape).to(self.device) for _ in range(self.batch)]
            batches.append((self._images(*shape), samples))
        return batches

    def _images(self, height, width):
        return self.place(torch.randn(self.batch, 3, height, width))

    def paper_ratio(self, variant: str) -> float | None:
        """The paper's training time of a variant over that of the plain model."""
        attention = VARIANTS[variant].attention
        if self.what != 'train' or not attention or attention in RIVALS:
            return None
        hours = {row.config: row.paper['hours'] for row in paper.rows(2, 3)}
        return float(hours[self.config(attention)] / hours[self.config('')])


def random_boxes(shape: tuple) -> Any:
    """Make a data sample of mmdet with 8 random boxes."""
    from mmdet.structures import DetDataSample

    names = 'img_shape', 'pad_shape', 'batch_input_shape'
    sample = DetDataSample(metainfo=dict.fromkeys(names, shape))
    start = 0.6 * torch.rand(8, 2)
    ends = torch.cat([start, start + 0.1 + 0.3 * torch.rand(8, 2)], dim=1)
    boxes, labels = ends * torch.tensor(2 * shape[::-1]), torch.randint(80, (8,))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    return sample


def random_map(shape: tuple) -> Any:
    """Make a data sample of mmseg with a random class for each pixel."""
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=shape))
    sample.gt_sem_seg = PixelData(data=torch.randint(150, (1, *shape)))
    return sample
