"""Export a model of MMPretrain, MMDetection or MMSegmentation to ONNX.

::

    python tools/export_onnx.py CONFIG CHECKPOINT

The file holds the network from preprocessed images to

- the ``logits`` of a classifier, (N, classes), before the softmax;
- the feature maps ``feat0``, ``feat1`` ... of a detector's backbone and neck.
  MMDeploy exports its heads: proposals, RoIs and suppression;
- the ``logits`` of a segmenter, (N, classes, H, W), as from ``encode_decode``.

The preprocessing is not part of the file; the tool prints what it must do. Batch
and image size are dynamic.

Before the file is written under its name, onnxruntime runs it on batches and
images of several sizes, and the outputs are compared with PyTorch's.
"""

import ra_mm.threads  # noqa: F401  isort: skip

import importlib.util
import os.path as osp
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from ra_mm.cli import add_cfg_options, load_config, report_user_errors
from ra_mm.cli.arguments import add_shape_argument
from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import load_strict
from ra_mm.errors import UserError
from ra_mm.export import onnx as onnx_export
from ra_mm.export.onnx import TOLERANCE, ExportedNetwork
from ra_mm.fileio import atomic_write, check_writable
from ra_mm.models import build_model, count_channels

PROG = 'tools/export_onnx.py'


def parse_args(argv: Sequence[str] | None) -> Namespace:
    what = 'Export a model to ONNX and compare it with PyTorch. Only backbone and neck '
    what += 'of a detector are exported; use MMDeploy for its heads. The preprocessing '
    what += 'is not exported.'
    parser = ArgumentParser(prog=PROG, description=what)
    add = parser.add_argument
    add('config', help='config file of any of the toolboxes')
    add('checkpoint', help='checkpoint file or URL')
    what = 'by default the path of the checkpoint, ending in .onnx'
    add('--out', metavar='FILE.onnx', help=what)
    what = 'height and width of the images to compare with, or one number for both, by '
    what += 'default 224; larger and smaller images are compared as well'
    add_shape_argument(parser, what, default=(224, 224))
    half, full = TOLERANCE[torch.float16], TOLERANCE[torch.float32]
    what = 'export in float16, including input and outputs; the gates of reverse '
    what += 'attention (M-GRN) stay in float32. The outputs may differ from those of '
    what += f'PyTorch in float32 by {half} instead of {full}'
    add('--half', action='store_true', help=what)
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.out is None:
        path = args.checkpoint
        path = osp.basename(path) if '://' in path else path
        args.out = f'{osp.splitext(path)[0]}.onnx'
    elif not args.out.endswith('.onnx'):
        parser.error(f'--out {args.out}: expected a name that ends in .onnx')
    return args


def check_packages() -> None:
    """Check that the optional dependencies are installed."""
    names = 'onnx', 'onnxruntime'
    if missing := [n for n in names if importlib.util.find_spec(n) is None]:
        advice = f'python -m pip install {" ".join(missing)}'
        raise UserError(f'{" and ".join(missing)} must be installed: {advice}')


def load_network(cfg: Config, checkpoint: str) -> ExportedNetwork:
    """Build the network of a config and load the weights of a checkpoint."""
    network = ExportedNetwork(build_model(cfg)).eval()
    load_strict(network.model, read_state_dict(checkpoint))
    return network


def print_interface(
    network: ExportedNetwork, dtype: torch.dtype, names: Sequence[str], cfg: Config
) -> None:
    """Print input and outputs of the exported network."""
    name = str(dtype).removeprefix('torch.')
    channels = count_channels(network.model.backbone)
    print(
        f'input    image, {name} (batch, {channels}, height, width): '
        f'{onnx_export.describe_preprocessing(cfg)}\noutput   {", ".join(names)}'
    )
    if network.kind == 'detector':
        print('         of backbone and neck: deploy the heads with MMDeploy')


def compare(path: str, images: list[Tensor], expected: list[tuple]) -> float:
    """Print the relative error for each batch and return the largest."""
    print('\n  batch, height, width    relative error')
    errors = []
    found = onnx_export.run_onnx(path, images)
    for image, ours, theirs in zip(images, found, expected):
        errors.append(max(map(onnx_export.relative_error, ours, theirs)))
        n, _, height, width = image.shape
        print(f'{n:7}, {height:6}, {width:5}{errors[-1]:18.1e}')
    print(f'maximal relative error: {max(errors):.1e}')
    return max(errors)


def main(argv: Sequence[str] | None = None) -> float:
    with report_user_errors(PROG):
        args = parse_args(argv)
        check_packages()
        check_writable('--out', Path(args.out).parent)
        cfg = load_config(args.config, args.cfg_options)
        network = load_network(cfg, args.checkpoint)
        channels = count_channels(network.model.backbone)
        images = onnx_export.get_test_images(*args.shape, channels)
        expected = onnx_export.run_torch(network, images)
        dtype = torch.float16 if args.half else torch.float32
        if args.half:
            onnx_export.to_half(network)
            images = [image.half() for image in images]

        with atomic_write(args.out, 'wb') as file:
            path = str(file.name)
            # Trace with the smallest image, since PyTorch is slow in float16
            # on a CPU, and with two of them, since the exporter takes a batch
            # of 1 for a constant.
            image = torch.cat(2 * [images[-1]])
            names = onnx_export.export(network, image, len(expected[0]), path)
            print_interface(network, dtype, names, cfg)
            error = compare(path, images, expected)
            if error > TOLERANCE[dtype]:
                text = f'the exported model differs from PyTorch by {error:.1e}, more'
                text += f' than {TOLERANCE[dtype]}'
                raise UserError(f'{text}; {args.out} was not written')
        print(f'written: {args.out}')
        return error


if __name__ == '__main__':
    main()
