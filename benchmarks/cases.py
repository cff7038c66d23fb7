"""The models, inputs and variants that ``tools/benchmark.py`` measures."""

import functools
import operator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual
from mmpretrain.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ra_mm.engine.config import find_configs
from ra_mm.layers import ATTENTIONS, ResidualSum
from ra_mm.models import build_model
from reproduction import paper

CONFIG_DIR = find_configs()
CONFIGS = dict(
    resnet18='r18', resnet50='r50', resnet101='r101', mobilenetv2='mobilenetv2_1.0'
)


class Variant(NamedTuple):
    """What is measured beside the plain model.

    Attributes:
        attention: A key of ATTENTIONS; '' for the plain model.
        path: The path of the tail; None for the one that a long training would
            choose by measurement.
        compiles: Whether torch.compile gets the backbone.
    """

    attention: str
    path: str | None = 'fused'
    compiles: bool = False


# Rivals and controls without configs of their own: they replace RA in its configs.
RIVALS = ('simam', 'eca', 'grn', 'static_gate', 'gated_residual')
VARIANTS = {
    'plain': Variant(''),
    'se': Variant('se'),
    'cbam': Variant('cbam'),
    'ra': Variant('ra', None),
    'ra-naive': Variant('ra', 'reference'),
    'ra-fused_sum': Variant('ra', 'fused_sum'),
    'ra-fused': Variant('ra', 'fused'),
    'ra-compiled': Variant('ra', 'compiled'),
    'plain+compile': Variant('', compiles=True),
    'ra+compile': Variant('ra', compiles=True),
    **{name: Variant(name) for name in RIVALS},
}


@dataclass(frozen=True)
class Case:
    """The settings of one measurement, the same for all its variants.

    Attributes:
        what (str): 'tail' for everything after the last convolution of each
            residual block, forward and backward; 'train' for an SGD step of a
            classifier; 'infer' for its forward pass; 'detector' for an SGD
            step of Faster R-CNN.
        model (str): The backbone, a key of CONFIGS.
        device (str): 'cpu' or 'cuda'.
        precision (str): 'fp32' (TF32 off), 'tf32' (TF32 allowed in
            convolutions and matrix products) or 'amp' (autocast to bfloat16).
        layout (str): 'nchw', or 'nhwc' for channels-last.
        batch (int): The number of images.
        size (int): The side of an image in pixels. In a detector, its height;
            the width has the ratio of 1333x800.
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
        if self.what == 'detector':
            return CONFIG_DIR / f'faster_rcnn_{name}'
        return CONFIG_DIR / f'imagenet/{name}'

    def build(self, attention: str) -> nn.Module:
        """Build the untrained model, or its tails."""
        if self.what == 'tail':
            return nn.ModuleList(
                Tail(attention, shape[1], relu) for shape, relu in tails(self)
            )
        cfg = Config.fromfile(self.config(attention))
        cfg.model.backbone.init_cfg = None
        if attention in RIVALS:
            cfg.model.backbone.attention = dict(
                type=f'ra_mm.{ATTENTIONS[attention].__name__}'
            )
        return build_model(cfg)

    def place(self, t: Any) -> Any:
        """Move a tensor or a module to the device, in the layout."""
        memory_format = (
            torch.channels_last if self.layout == 'nhwc' else torch.contiguous_format
        )
        return t.to(self.device, memory_format=memory_format)

    def inputs(self) -> Any:
        """Make random images with labels or boxes; for tails z, x and dy."""
        torch.manual_seed(0)
        if self.what == 'tail':
            dtype = torch.bfloat16 if self.precision == 'amp' else torch.float32
            return [
                [
                    self.place(torch.randn(shape, dtype=dtype, device=self.device))
                    for shape, _ in tails(self)
                ]
                for _ in ('z', 'x', 'dy')
            ]
        if self.what == 'detector':
            shape = self.size, round(self.size * 1333 / 800)
            padded = tuple(-(-side // 32) * 32 for side in shape)
            images = self.place(torch.randn(self.batch, 3, *padded))
            return images, [
                random_sample(shape, padded).to(self.device) for _ in range(self.batch)
            ]
        shape = self.batch, 3, self.size, self.size
        labels = torch.randint(1000, (self.batch,), device=self.device)
        return self.place(torch.randn(shape)), labels

    def paper_ratio(self, variant: str) -> float | None:
        """The paper's training time of a variant over that of the plain model."""
        attention = VARIANTS[variant].attention
        if self.what != 'train' or not attention or attention in RIVALS:
            return None
        hours = {row.config: row.paper['hours'] for row in paper.rows(2, 3)}
        return float(hours[self.config(attention)] / hours[self.config('')])


def random_sample(shape: tuple[int, int], padded: tuple[int, int]) -> Any:
    """Make a data sample with 8 random boxes."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample(
        metainfo=dict(img_shape=shape, pad_shape=padded, batch_input_shape=padded)
    )
    start = 0.6 * torch.rand(8, 2)
    ends = torch.cat([start, start + 0.1 + 0.3 * torch.rand(8, 2)], dim=1)
    sample.gt_instances = InstanceData(
        bboxes=ends * torch.tensor([*shape[::-1]] * 2), labels=torch.randint(80, (8,))
    )
    return sample


@functools.cache
def tails(case: Case) -> list[tuple[torch.Size, bool]]:
    """List each residual block's output shape, and whether it ends in a ReLU."""
    kinds = []

    def note(block, _, out):
        kinds.append((out.shape, not isinstance(block, InvertedResidual)))

    backbone = replace(case, what='infer').build('').backbone.to('meta')
    for m in backbone.modules():
        if isinstance(m, (BasicBlock, Bottleneck)) or getattr(
            m, 'use_res_connect', False
        ):
            m.register_forward_hook(note)
    backbone(torch.empty(case.batch, 3, case.size, case.size, device='meta'))
    return kinds


class Tail(nn.Module):
    """Everything after the last convolution of a residual block."""

    def __init__(self, attention: str, channels: int, relu: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()
        if attention:
            self.attention = ATTENTIONS[attention](channels)
        else:  # as in mmpretrain's blocks
            self.attention = operator.iadd if relu else operator.add

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        if isinstance(self.attention, ResidualSum):
            return self.attention.tail(z, self.norm, x, self.act)
        return self.act(self.attention(self.norm(z), x))
