"""Count the parameters and multiply-accumulates of a model.

mmengine's FlopAnalyzer does the counting. It traces the model and so sees every
operator, whichever module or function calls it. By default it counts
convolutions, linear layers, norms, adaptive pooling and upsampling.
:mod:`ra_mm.analysis.operators` adds those of attention layers (products,
quotients, squares, means and L2 norms, at one multiply-accumulate per element)
and of mmcv and torchvision. Additions, comparisons and activations remain free.
:func:`not_counted` names all others, and :func:`not_called` the modules not called.
"""

from collections import Counter, defaultdict
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ra_mm.analysis.operators import COUNTED, MMCV, is_free, results_without_kernels
from ra_mm.models import build_model, count_channels

# Default input (height, width) in pixels: the paper's for classifiers and
# detectors, the crop size of UperNet's config for segmenters.
SHAPES = dict(mmpretrain=(224, 224), mmdet=(800, 1280), mmseg=(512, 512))

# Table 4 adds the ImageNet classifier of the pre-training to the detector.
CLASSIFIER = 2048 * 1000 + 1000


def count_params(model: nn.Module, trainable: bool = False) -> int:
    """Count all parameters, or only those with ``requires_grad``."""
    return sum(
        p.numel() for p in model.parameters() if p.requires_grad or not trainable
    )


def count_config(cfg: Config, as_paper: bool) -> tuple[float, float]:
    """Count parameters in millions and multiply-accumulates in billions.

    Args:
        cfg (Config): A complete config.
        as_paper (bool): Whether to count as the paper's tables do. Otherwise all
            parameters count, and the image has the size that a test has.
    """
    scope = cfg.default_scope
    shape = SHAPES[scope]
    if not as_paper:
        steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
        is_classifier = scope == 'mmpretrain'
        size = steps['CenterCrop'].crop_size if is_classifier else steps['Resize'].scale
        shape = (size, size) if isinstance(size, int) else tuple(size[::-1])
    model = build_model(cfg).eval()  # freezes stages as the config says
    params = count_params(model)
    if as_paper and scope == 'mmdet':
        params = count_params(model, trainable=True) + CLASSIFIER
    return params / 1e6, count_flops(model, shape).total() / 1e9


class TensorMode(nn.Module):
    """Calls a model with ``mode='tensor'`` on an image of fixed size.

    A trace takes tensors only, while the models of OpenMMLab also need a mode
    and data samples.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        shapes = dict(img_shape=shape, batch_input_shape=shape)
        self.samples = [BaseDataElement(metainfo=shapes)]

    def forward(self, image: Tensor) -> Any:
        return self.model(image, data_samples=self.samples, mode='tensor')


def count_flops(model: nn.Module, shape: tuple[int, int]) -> FlopAnalyzer:
    """Trace the forward pass of a model on one image, without post-processing.

    Non-maximum suppression of an RPN is switched off while tracing, so that
    the number of proposals is the config's and does not depend on the random
    weights.

    Args:
        model (nn.Module): A model of mmpretrain, mmdet or mmseg. It is put
            into evaluation mode.
        shape (tuple[int, int]): Height and width of the image in pixels. The
            image is not padded.

    Returns:
        FlopAnalyzer: Multiply-accumulates: ``total()``, ``by_operator()`` and
        ``by_module()``, where the name of every module begins with ``model``.
    """
    model.eval()
    image = torch.rand(1, count_channels(getattr(model, 'backbone', model)), *shape)
    analyzer = FlopAnalyzer(TensorMode(model, shape), image)
    analyzer.set_op_handle(**COUNTED)
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    with _all_proposals(model), results_without_kernels(), torch.no_grad():
        analyzer.total()  # traces the model; the analyzer keeps the result
    return analyzer


def not_counted(model: nn.Module, analyzer: FlopAnalyzer) -> dict[str, list[str]]:
    """List the operators that are neither counted nor free, with their modules.

    Args:
        model (nn.Module): The model.
        analyzer (FlopAnalyzer): The result of :func:`count_flops` of the model.

    Returns:
        dict[str, list[str]]: The names of the innermost modules that call an
        operator, by the name of the operator. The model itself is ``model``.
    """
    calls: Counter[tuple[str, str]] = Counter()
    for name, _ in model.named_modules():
        name = f'model.{name}' if name else 'model'
        for operator, count in analyzer.unsupported_ops(name).items():
            calls[operator, name] += count
            calls[operator, name.rpartition('.')[0]] -= count
    modules = defaultdict(list)
    for (operator, name), count in calls.items():
        if name and count > 0 and not is_free(operator):
            name = name.removeprefix('model.')
            modules[operator.removeprefix(MMCV)].append(name)
    return dict(modules)


def not_called(model: nn.Module, analyzer: FlopAnalyzer) -> list[str]:
    """List the outermost modules with parameters that the forward pass leaves out.

    A module without children is none of them, as it may be used through its weight.
    """
    skipped = {name.removeprefix('model.') for name in analyzer.uncalled_modules()}
    return [
        name
        for name, module in model.named_modules()
        if name in skipped and name.rpartition('.')[0] not in skipped
        if [*module.children()] and count_params(module)
    ]


def _all_proposals(model):
    """Keep NMS from suppressing proposals."""
    settings = getattr(getattr(model, 'rpn_head', None), 'test_cfg', None)
    return patch.dict(settings.nms, iou_threshold=1.0) if settings else nullcontext()


class Part(NamedTuple):
    """Complexity of a direct child of a model, or of all operators outside them.

    Attributes:
        name: Name of the child; '' for operators outside all children.
        params: Number of parameters.
        flops: Multiply-accumulates.
    """

    name: str
    params: int
    flops: int


def count_parts(model: nn.Module, analyzer: FlopAnalyzer) -> list[Part]:
    """Count each direct child of a model from the result of :func:`count_flops`.

    Children without parameters and operators are left out. The parts add up to
    the model.
    """
    flops = analyzer.by_module()
    parts = [
        Part(name, count_params(child), flops[f'model.{name}'])
        for name, child in model.named_children()
    ]
    other_params = count_params(model) - sum(part.params for part in parts)
    other_flops = flops['model'] - sum(part.flops for part in parts)
    parts.append(Part('', other_params, other_flops))
    return [part for part in parts if part.params or part.flops]
