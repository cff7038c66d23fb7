"""Export a model of MMPretrain, MMDetection or MMSegmentation to ONNX.

::

    python tools/export_onnx.py CONFIG CHECKPOINT

The file holds the network from preprocessed images to

- ``logits``, (N, classes), before the softmax, of a classifier;
- ``feat0``, ``feat1`` ..., the maps of backbone and neck, of a detector. Its
  heads, with proposals, RoIs and suppression, are MMDeploy's work;
- ``logits``, (N, classes, H, W), as of ``encode_decode``, of a segmenter.

Preprocessing stays outside: the tool prints what is to be done. Batch and
image size are dynamic.

Before it takes its place the file is run by onnxruntime, on batches and images
of several sizes, and compared with PyTorch: of each output the largest
difference is divided by the largest value.
"""

import importlib.util
import os.path as osp
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ra_mm.cli import add_cfg_options, load_config, report_user_errors
from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import load_strict
from ra_mm.fileio import atomic_write, check_writable
from ra_mm.layers import ReverseAttention

PROG = 'tools/export_onnx.py'
OPSET = 17
# The largest relative error. float16 has 11 bits, and its roundings add up
# over the layers: models of random weights came to at most 2e-3.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2}


def parse_args(argv):
    parser = ArgumentParser(
        prog=PROG,
        description='Export a model to ONNX, and compare it with PyTorch. Of '
        "a detector backbone and neck are exported; its heads are MMDeploy's "
        'work. Preprocessing stays outside.',
    )
    parser.add_argument('config', help='config file of any of the toolboxes')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out',
        metavar='FILE.onnx',
        help='by default the path of the checkpoint, ending in .onnx',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[224],
        metavar='PIXELS',
        help='height and width, or the side, of the images that are compared, '
        'by default 224; larger and smaller ones are, too',
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='float16, input and outputs included; the gates of reverse '
        'attention (M-GRN) are computed in float32. It is compared with '
        f'float32 in PyTorch and may be off by {TOLERANCE[torch.float16]} '
        f'instead of {TOLERANCE[torch.float32]}',
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if len(args.shape) > 2 or min(args.shape) < 1:
        parser.error(
            f'--shape {" ".join(map(str, args.shape))}: expected '
            'height and width, or one number for both'
        )
    if args.out is None:
        path = args.checkpoint
        args.out = (
            osp.splitext(osp.basename(path) if '://' in path else path)[0] + '.onnx'
        )
    elif not args.out.endswith('.onnx'):
        parser.error(f'--out {args.out}: expected a name that ends in .onnx')
    return args


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, of random weights."""
    if 'model' not in cfg:
        raise ValueError(f'{cfg.filename} has no model: it is no whole config')
    if cfg.get('data_preprocessor') is not None:  # as Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return revert_sync_batchnorm(MODELS.build(cfg.model))


class Network(nn.Module):
    """What is exported of a model: see the top of this tool.

    Raises:
        ValueError: If the model is of another kind.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.kind = self._kind(model)
        self.model = model

    @staticmethod
    def _kind(model):
        from mmdet.models import BaseDetector
        from mmpretrain.models import ImageClassifier
        from mmseg.models import EncoderDecoder

        for kind, base in (
            ('classifier', ImageClassifier),
            ('detector', BaseDetector),
            ('segmenter', EncoderDecoder),
        ):
            if isinstance(model, base):
                return kind
        raise ValueError(
            f'{type(model).__name__} cannot be exported: expected a '
            'classifier (ImageClassifier of mmpretrain), a detector of mmdet '
            'or a segmenter (EncoderDecoder of mmseg)'
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.kind == 'classifier':
            outputs = self.model(image, mode='tensor')
        elif self.kind == 'detector':
            outputs = self.model.extract_feat(image)
        else:
            outputs = self.model.encode_decode(image, [dict(img_shape=image.shape[2:])])
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


class AdaptivePooling(nn.Module):
    """nn.AdaptiveAvgPool2d as products with matrices, for any image size.

    ONNX has no such operation, and torch.onnx can export it for fixed sizes
    only.
    """

    def __init__(self, output_size) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.output_size
        return (
            _pooling_matrix(x.shape[2], rows, x)
            @ x
            @ _pooling_matrix(x.shape[3], columns, x).T
        )


def _pooling_matrix(n, bins, x):
    """(bins, n): bin i averages [floor(i n / bins), ceil((i+1) n / bins))."""
    i = torch.arange(bins, device=x.device)[:, None]
    pixel = torch.arange(n, device=x.device)
    end = ((i + 1) * n + bins - 1) // bins
    inside = ((pixel >= i * n // bins) & (pixel < end)).float()
    return (inside / inside.sum(dim=1, keepdim=True)).to(x.dtype)


def _replace_pooling(module):
    for name, child in module.named_children():
        if type(child) is nn.AdaptiveAvgPool2d:
            size = child.output_size
            size = size if isinstance(size, tuple) else (size, size)
            if None not in size and size != (1, 1):
                setattr(module, name, AdaptivePooling(size))
        else:
            _replace_pooling(child)


def to_half(model: nn.Module) -> nn.Module:
    """Make the model float16 in place, but for the gates (M-GRN).

    They are float32 from the aggregation on: its input is cast, since
    torch.onnx casts the sum of a ``vector_norm(dtype=float32)``, not its
    terms, and those of a large map overflow.
    """
    model.half()
    for layer in model.modules():
        if isinstance(layer, ReverseAttention):
            layer.float()
            layer.gate = _cast_first(layer.gate)
    return model


def _cast_first(gate):
    return lambda F: gate(F.float())


def export(network: Network, image: Tensor, outputs: int, path: str) -> list[str]:
    """Write a network, traced with an image, as ONNX.

    Args:
        network (Network): In evaluation mode. Its adaptive pooling is
            replaced.
        image (Tensor): (N, 3, H, W), of the network's dtype.
        outputs (int): How many the network has.
        path (str): The file to write.

    Returns:
        list[str]: The names of the outputs.

    Raises:
        ValueError: If the network has an operation that ONNX does not have.
    """
    _replace_pooling(network)
    if network.kind == 'detector':
        axes = {
            f'feat{i}': {0: 'batch', 2: f'height{i}', 3: f'width{i}'}
            for i in range(outputs)
        }
    else:
        axes = {'logits': {0: 'batch'}}
        if network.kind == 'segmenter':
            axes['logits'].update({2: 'height', 3: 'width'})
    names = list(axes)
    axes['image'] = {0: 'batch', 2: 'height', 3: 'width'}
    try:
        with warnings.catch_warnings():
            # Of sizes in the trace, which the comparison is for, and that
            # there is a newer exporter: it takes minutes instead of seconds.
            warnings.simplefilter('ignore')
            torch.onnx.export(
                network,
                (image,),
                path,
                input_names=['image'],
                output_names=names,
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except RuntimeError as e:  # torch.onnx.errors are of this class
        raise ValueError(
            f'PyTorch cannot export the model: {str(e).splitlines()[0]}'
        ) from e
    return names


def run(path: str, images: list[Tensor]) -> Iterator[list[Tensor]]:
    """Run an ONNX file by onnxruntime on the CPU.

    Args:
        path (str): A file that :func:`export` wrote.
        images (list[Tensor]): Inputs of its dtype.

    Yields:
        list[Tensor]: The outputs for one of the images, float32.

    Raises:
        ValueError: If onnxruntime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=['CPUExecutionProvider']
        )
        for image in images:
            outputs = session.run(None, {'image': image.numpy()})
            yield [torch.from_numpy(output).float() for output in outputs]
    except Exception as e:  # onnxruntime's have no other base
        raise ValueError(
            f'onnxruntime cannot run the exported model: {str(e).splitlines()[0]}'
        ) from e


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """The largest difference, divided by the largest expected magnitude.

    It is infinite if the shapes differ, or a value is not finite.
    """
    if ours.shape != expected.shape or not ours.isfinite().all():
        return float('inf')
    difference = (ours - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=1e-30)).item()


def get_sizes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Batch, height and width of the images to compare with."""
    return [
        (2, height, width),
        (1, height, width),
        (3, height + 33, width),
        (2, height, width + 46),
        (1, height // 2 + 1, width // 3 + 1),
    ]


@torch.no_grad()
def compute(network: Network, images: list[Tensor]) -> list[tuple]:
    """What PyTorch makes of the images."""
    expected = []
    for image in images:
        try:
            expected.append(network(image))
        except RuntimeError as e:
            n, _, height, width = image.shape
            raise ValueError(
                f'PyTorch cannot run the model on {n} images of {height} x '
                f'{width} pixels, give another --shape: '
                f'{str(e).splitlines()[0]}'
            ) from e
        if not all(output.isfinite().all() for output in expected[-1]):
            raise ValueError(
                'in PyTorch already the outputs are not finite: '
                'the weights have diverged'
            )
    return expected


def preprocessing(cfg: Config) -> str:
    """What the toolbox does to an image in front of the network."""
    steps = cfg.model.get('data_preprocessor') or {}
    rgb = steps.get('bgr_to_rgb') or steps.get('to_rgb')
    text = f'{"RGB" if rgb else "BGR"} from 0 to 255'
    if steps.get('mean') is not None:
        text += f', minus {list(steps.mean)}, divided by {list(steps.std)}'
    if steps.get('pad_size_divisor', 1) > 1:
        text += f', padded to multiples of {steps.pad_size_divisor}'
    return text


def check_packages() -> None:
    missing = [
        name
        for name in ('onnx', 'onnxruntime')
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(
            f'{" and ".join(missing)} must be installed: '
            'python -m pip install -r requirements/export.txt'
        )


def main(argv=None):
    with report_user_errors(PROG):
        args = parse_args(argv)
        check_packages()
        check_writable('--out', Path(args.out).parent)
        cfg = load_config(args.config, args.cfg_options)
        network = Network(build_model(cfg)).eval()
        load_strict(network.model, read_state_dict(args.checkpoint))
        generator = torch.Generator().manual_seed(0)
        images = [
            torch.randn(n, 3, height, width, generator=generator)
            for n, height, width in get_sizes(args.shape[0], args.shape[-1])
        ]
        expected = compute(network, images)
        dtype = torch.float32
        if args.half:
            dtype = torch.float16
            to_half(network)
            images = [image.half() for image in images]

        with atomic_write(args.out, 'wb') as file:
            path = str(file.name)
            # The smallest, since PyTorch is slow in float16 on a CPU; and not
            # one alone, for a trace to take its batch for a constant.
            image = torch.cat(2 * [images[-1]])
            names = export(network, image, len(expected[0]), path)
            name = str(dtype).removeprefix('torch.')
            print(
                f'input    image, {name} (batch, 3, height, width): '
                f'{preprocessing(cfg)}\noutput   {", ".join(names)}'
            )
            if network.kind == 'detector':
                print(
                    '         of backbone and neck: the heads are to be '
                    'deployed by MMDeploy'
                )
            print('\n  batch, height, width    relative error')
            errors = []
            found = run(path, images)
            for image, ours, wanted in zip(images, found, expected):
                errors.append(max(map(relative_error, ours, wanted)))
                n, _, height, width = image.shape
                print(f'{n:7}, {height:6}, {width:5}{errors[-1]:18.1e}')
            print(f'maximal relative error: {max(errors):.1e}')
            if max(errors) > TOLERANCE[dtype]:
                raise ValueError(
                    f'the exported model is not what PyTorch computes: '
                    f'{max(errors):.1e} is more than {TOLERANCE[dtype]}; '
                    f'{args.out} was not written'
                )
        print(f'written: {args.out}')
        return max(errors)


if __name__ == '__main__':
    main()
