"""Export models of MMPretrain, MMDetection and MMSegmentation to ONNX.

:class:`ExportedNetwork` is the part of a model that is exported,
:func:`to_half` converts it to float16, :func:`export` writes the file,
:func:`run_torch` and :func:`run_onnx` give the outputs of PyTorch and onnxruntime,
and :func:`relative_error` compares them.
"""

import warnings
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ra_mm._torch import legacy_exporter
from ra_mm.errors import UserError, translate_errors
from ra_mm.layers import MGRN

OPSET = 17
# Largest accepted relative error. float16 has a significand of 11 bits, and
# rounding errors add up over the layers: models with random weights reached
# 2e-3.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


class ExportedNetwork(nn.Module):
    """The part of a model that is exported, from an image to a tuple of outputs.

    The image is preprocessed, of shape (N, 3, H, W). The outputs are

    - of a classifier: the logits before the softmax, (N, classes);
    - of a detector: the feature maps of backbone and neck;
    - of a segmenter: the logits of ``encode_decode``, (N, classes, H, W).

    Attributes:
        kind (str): 'classifier', 'detector' or 'segmenter'.

    Raises:
        UserError: If the model is none of these.
    """

    def __init__(self, model: nn.Module) -> None:
        from mmdet.models import BaseDetector
        from mmpretrain.models import ImageClassifier
        from mmseg.models import EncoderDecoder

        super().__init__()
        kinds = dict(classifier=ImageClassifier, detector=BaseDetector)
        kinds['segmenter'] = EncoderDecoder
        found = [kind for kind, base in kinds.items() if isinstance(model, base)]
        if not found:
            raise UserError(
                f'{type(model).__name__} cannot be exported: expected a '
                'classifier (ImageClassifier of mmpretrain), a detector of mmdet '
                'or a segmenter (EncoderDecoder of mmseg)'
            )
        self.kind = found[0]
        self.model: Any = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.kind == 'classifier':
            outputs = self.model(image, mode='tensor')
        elif self.kind == 'detector':
            outputs = self.model.extract_feat(image)
        else:
            outputs = self.model.encode_decode(image, [dict(img_shape=image.shape[2:])])
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


_adaptive_avg_pool2d = nn.functional.adaptive_avg_pool2d


def adaptive_pooling(x: Tensor, output_size: Any) -> Tensor:
    """``adaptive_avg_pool2d`` as matrix products, for images of any size.

    ONNX lacks adaptive pooling, and torch.onnx supports it for fixed input
    sizes only.
    """
    rows, columns = _pair(output_size)
    if None in (rows, columns) or rows == columns == 1:
        return _adaptive_avg_pool2d(x, output_size)
    across = _pooling_matrix(x.shape[3], columns, x)
    return _pooling_matrix(x.shape[2], rows, x) @ x @ across.T


def _pooling_matrix(n, bins, x):
    """(bins, n): bin i averages [floor(i n / bins), ceil((i + 1) n / bins))."""
    i = torch.arange(bins, device=x.device)[:, None]
    pixel = torch.arange(n, device=x.device)
    end = ((i + 1) * n + bins - 1) // bins
    inside = ((pixel >= i * n // bins) & (pixel < end)).float()
    return (inside / inside.sum(dim=1, keepdim=True)).to(x.dtype)


def to_half(model: nn.Module) -> nn.Module:
    """Convert a model to float16 in place, except the gates (M-GRN).

    The input of a gate is cast to float32, for an ablation's gate by a hook.
    ``vector_norm(dtype=float32)`` is not enough, since torch.onnx casts its result
    only: the sum of squares over a large map overflows before.
    """
    model.half()
    for gate in model.modules():
        if isinstance(gate, MGRN):
            gate.float()
            if not gate.is_default:  # otherwise onnx_sum casts it
                gate.register_forward_pre_hook(lambda gate, args: args[0].float())
    return model


def export(
    network: ExportedNetwork, image: Tensor, num_outputs: int, path: str
) -> list[str]:
    """Trace a network and write it as ONNX, with dynamic batch and image size.

    Args:
        network (ExportedNetwork): In evaluation mode.
        image (Tensor): The image to trace with, (N, 3, H, W), of the network's
            dtype.
        num_outputs (int): Number of outputs of the network.
        path (str): The file to write.

    Returns:
        list[str]: Names of the outputs: ``feat0``, ``feat1`` ... of a
        detector, otherwise ``logits``. The input is ``image``.

    Raises:
        UserError: If ONNX lacks an operator of the network.
    """
    if network.kind == 'detector':
        axes = {
            f'feat{i}': {0: 'batch', 2: f'height{i}', 3: f'width{i}'}
            for i in range(num_outputs)
        }
    else:
        axes = {'logits': {0: 'batch'}}
        if network.kind == 'segmenter':
            axes['logits'].update({2: 'height', 3: 'width'})
    names = list(axes)
    axes['image'] = {0: 'batch', 2: 'height', 3: 'width'}
    try:
        pooling = patch.object(nn.functional, 'adaptive_avg_pool2d', adaptive_pooling)
        with pooling, warnings.catch_warnings():
            # About sizes that become constants, which the comparison would
            # reveal, and about the other exporter.
            warnings.simplefilter('ignore')
            torch.onnx.export(
                network,
                (image,),
                path,
                input_names=['image'],
                output_names=names,
                dynamic_axes=axes,
                opset_version=OPSET,
                # The one based on torch.export takes minutes instead of seconds.
                **legacy_exporter(),
            )
    except RuntimeError as e:  # the base class of torch.onnx.errors
        raise UserError(
            f'PyTorch cannot export the model: {str(e).splitlines()[0]}'
        ) from e
    return names


def run_onnx(path: str, images: list[Tensor]) -> Iterator[list[Tensor]]:
    """Run an ONNX file with onnxruntime on the CPU.

    Args:
        path (str): A file written by :func:`export`.
        images (list[Tensor]): Inputs, (N, 3, H, W), of the exported dtype.

    Yields:
        list[Tensor]: The outputs for each input, float32.

    Raises:
        UserError: If onnxruntime cannot run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with translate_errors('onnxruntime cannot run the exported model'):
        session = onnxruntime.InferenceSession(
            path, options, providers=['CPUExecutionProvider']
        )
        for image in images:
            outputs = session.run(None, {'image': image.numpy()})
            yield [torch.from_numpy(output).float() for output in outputs]


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """Divide the largest absolute difference by the largest expected magnitude.

    The result is infinite if the shapes differ or ``ours`` is not finite.
    """
    if ours.shape != expected.shape or not ours.isfinite().all():
        return float('inf')
    difference = (ours - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=1e-30)).item()


def get_test_images(height: int, width: int, channels: int = 3) -> list[Tensor]:
    """Draw random images to compare with, in batches of several sizes.

    Returns:
        list[Tensor]: float32, (N, channels, H, W): batches of 2 and 1 of the given
        size, a higher batch of 3, a wider batch of 2, and as the last and
        smallest one a single image of about half the height and a third of
        the width.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = [
        (2, height, width),
        (1, height, width),
        (3, height + 33, width),
        (2, height, width + 46),
        (1, height // 2 + 1, width // 3 + 1),
    ]
    return [torch.randn(n, channels, h, w, generator=generator) for n, h, w in sizes]


@torch.no_grad()
def run_torch(
    network: ExportedNetwork, images: list[Tensor]
) -> list[tuple[Tensor, ...]]:
    """Compute the network's outputs for each batch of images in PyTorch.

    Raises:
        UserError: If the network cannot process images of this size, or an
            output is not finite.
    """
    outputs = []
    for image in images:
        try:
            outputs.append(network(image))
        except RuntimeError as e:
            n, _, height, width = image.shape
            raise UserError(
                f'PyTorch cannot run the model on {n} images of {height} x '
                f'{width} pixels, try another --shape: {str(e).splitlines()[0]}'
            ) from e
        if not all(output.isfinite().all() for output in outputs[-1]):
            raise UserError(
                'the outputs are not finite in PyTorch: the training has diverged'
            )
    return outputs


def describe_preprocessing(cfg: Config) -> str:
    """Describe the input that the network expects, from the config."""
    own = cfg.model.get('data_preprocessor')
    steps: Any = own or cfg.get('data_preprocessor') or {}
    rgb = steps.get('bgr_to_rgb') or steps.get('to_rgb')
    text = f'{"RGB" if rgb else "BGR"} from 0 to 255'
    if steps.get('mean') is not None:
        text += f', minus {list(steps.mean)}, divided by {list(steps.std)}'
    if steps.get('pad_size_divisor', 1) > 1:
        text += f', padded to multiples of {steps.pad_size_divisor}'
    return text
