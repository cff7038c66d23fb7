"""Draw the gates of reverse attention for any checkpoint, as in the paper's Fig. 5.

::

    python tools/visualize_gates.py CONFIG CHECKPOINT IMAGES

IMAGES has one folder of images per class; these need not be classes of the
model. The images go through the config's test pipeline one by one and then
through the backbone only. A segmenter that tests in sliding windows sees
complete images here. The tool writes

- ``gates.json``: all numbers, see :func:`ra_mm.analysis.gates.measure_gates`;
- ``gates.png``: G of each channel in the chosen blocks, by class;
- ``spread.png``: how G spreads over channels and classes, by depth;
- ``strip.png``: how the gates change the shortcuts of one image.
"""

import ra_mm.threads  # noqa: F401  isort: skip

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import nn

from ra_mm.analysis import gates
from ra_mm.analysis.images import find_images, get_reader
from ra_mm.cli import add_cfg_options, load_config, positive_int, report_user_errors
from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import load_strict
from ra_mm.errors import UserError
from ra_mm.fileio import atomic_write, check_writable
from ra_mm.models import build_model

PROG = 'tools/visualize_gates.py'


def parse_args(argv: Sequence[str] | None) -> Namespace:
    what = "Draw the paper's Fig. 5 for any checkpoint"
    parser = ArgumentParser(prog=PROG, description=what)
    add = parser.add_argument
    add('config', help='config file of any of the toolboxes')
    add('checkpoint', help='checkpoint file or URL')
    add('images', help='folder with one folder of images per class')
    what = 'blocks to draw, such as RA_2_3; by default the last of each stage and all '
    what += 'of the last stage'
    add('--blocks', nargs='+', metavar='RA_STAGE_BLOCK', help=what)
    add('--classes', nargs='+', metavar='FOLDER', help='by default all')
    what = 'read the first N images of each class by name, by default 50'
    add('--max-images', type=positive_int, default=50, metavar='N', help=what)
    add('--image', help='image of the strip, by default the first one')
    add('--out', help='folder for the results, by default <work dir>/gates')
    add('--device', help='such as cuda:1, by default the GPU if there is one')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def load_model(cfg: Config, path: str, device: str) -> nn.Module:
    """Build a model with gates and load a checkpoint that was trained with RA."""
    model = build_model(cfg)
    if not hasattr(model, 'backbone'):
        raise UserError(f'{cfg.model.type} has no backbone')
    gates.find_blocks(model.backbone)
    weights = read_state_dict(path)
    if not any(key.endswith('.gate.gamma') for key in weights):
        text = 'was trained without reverse attention, so it has no gates'
        raise UserError(f'{path} {text}')
    load_strict(model, weights)
    try:
        return model.to(device).eval()
    except (AssertionError, RuntimeError) as e:  # torch's, for unknown devices
        raise UserError(f'--device {device}: {e}'.splitlines()[0]) from e


def show_progress(images: list[tuple[str, Path]], root: str) -> Iterator:
    """Yield the images while a bar on stderr names the current one."""
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task('', total=len(images))
        for label, path in images:
            progress.update(task, description=escape(str(path.relative_to(root))))
            yield label, path
            progress.advance(task)


def main(argv: Sequence[str] | None = None) -> None:
    with report_user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options)
        images = find_images(args.images, args.classes, args.max_images)
        model = load_model(cfg, args.checkpoint, args.device or get_device())
        chosen = gates.choose_blocks(gates.find_blocks(model.backbone), args.blocks)
        read = get_reader(cfg, model)
        out = Path(args.out or f'{cfg.work_dir}/gates')
        check_writable('--out', out)

        strip_image = args.image or images[0][1]
        strip = gates.plot_strip(model.backbone, *read(strip_image), chosen)
        shown = show_progress(images, args.images)
        batches = ((label, read(path)[0]) for label, path in shown)
        numbers = gates.measure_gates(model.backbone, batches, chosen)

        with atomic_write(out / 'gates.json') as file:
            json.dump(numbers, file)
        print(out / 'gates.json')
        for name, figure in (
            ('gates', gates.plot_gates(numbers)),
            ('spread', gates.plot_spread(numbers)),
            ('strip', strip),
        ):
            with atomic_write(out / f'{name}.png', 'wb') as file:
                figure.savefig(file, format='png', dpi=150)
            print(out / f'{name}.png')
        print(f'The strip shows {strip_image}')


if __name__ == '__main__':
    main()
