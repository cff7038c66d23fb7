"""Show what the gates of reverse attention do, as in the paper's Fig. 5.

::

    python tools/visualize_gates.py CONFIG CHECKPOINT IMAGES

IMAGES has a folder of images for each class, whatever the model predicts. They
go through the config's test pipeline, one by one, and through the backbone
alone; a segmenter that tests in windows sees them whole. Written are

- ``gates.json``: the figures' numbers, see :func:`ra_mm.analysis.gates.measure`;
- ``gates.png``: G of each channel in the chosen blocks, by class;
- ``spread.png``: how G spreads with depth, over the channels and the classes;
- ``strip.png``: what the gates let through of one image.
"""

import json
import re
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import nn

from ra_mm.analysis import gates
from ra_mm.cli import add_cfg_options, load_config, report_user_errors
from ra_mm.engine.checkpoint_io import read_state_dict
from ra_mm.engine.strict_load import load_strict
from ra_mm.fileio import atomic_write, check_writable
from ra_mm.validation import shorten

PROG = 'tools/visualize_gates.py'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def parse_args(argv):
    parser = ArgumentParser(
        prog=PROG, description="The paper's Fig. 5 of any checkpoint"
    )
    parser.add_argument('config', help='config file of any of the toolboxes')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('images', help='folder of class folders of images')
    parser.add_argument(
        '--blocks',
        nargs='+',
        metavar='RA_STAGE_BLOCK',
        help='blocks to draw, such as RA_2_3; by default the last of each '
        'stage and all of the last stage',
    )
    parser.add_argument('--classes', nargs='+', metavar='FOLDER', help='by default all')
    parser.add_argument(
        '--max-images',
        type=int,
        default=50,
        metavar='N',
        help='of each class read the first N images by name, by default 50',
    )
    parser.add_argument('--image', help='image of the strip, by default the first one')
    parser.add_argument(
        '--out', help='folder for the results, by default <work dir>/gates'
    )
    parser.add_argument(
        '--device', help='such as cuda:1, by default the GPU if there is one'
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.max_images < 1:
        parser.error(f'--max-images {args.max_images}: expected 1 or more')
    return args


def find_images(root: str, classes, most: int) -> list[tuple[str, Path]]:
    """Class and path of the first images of each class, or of these alone."""
    paths = sorted(Path(root).glob('[!.]*'))
    folders = {path.name: path for path in paths if path.is_dir()}
    if not folders:
        raise ValueError(
            f'{root} has no folders: expected is one for each class, with its images'
        )
    images = []
    for name in dict.fromkeys(classes or folders):
        if name not in folders:
            raise ValueError(
                f'--classes {name}: there is no such folder in '
                f'{root}, but {shorten(folders)}'
            )
        paths = sorted(
            path
            for path in folders[name].rglob('[!.]*')
            if path.suffix.lower() in SUFFIXES
        )
        if not paths:
            raise ValueError(
                f'{folders[name]} has no images {shorten(SUFFIXES)};'
                ' name other folders by --classes'
            )
        images += [(name, path) for path in paths[:most]]
    return images


def load_model(cfg: Config, path: str, device: str) -> nn.Module:
    """The model of the config, with the weights of a checkpoint that fits."""
    if 'model' not in cfg:
        raise ValueError(f'{cfg.filename} has no model: it is no whole config')
    if cfg.get('data_preprocessor') is not None:  # as Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if not hasattr(model, 'backbone'):
        raise ValueError(f'{cfg.model.type} has no backbone to look into')
    gates.find_blocks(model.backbone)
    weights = read_state_dict(path)
    if not any(key.endswith('.gamma') for key in weights):
        raise ValueError(
            f'{path} was trained without reverse attention, so '
            'there are no gates to look at'
        )
    load_strict(model, weights)
    try:
        return model.to(device).eval()
    except (AssertionError, RuntimeError) as e:
        raise ValueError(f'--device {device}: {e}'.splitlines()[0]) from e


def get_reader(cfg: Config, model: nn.Module) -> Callable:
    """What reads an image for the backbone, and to look at."""
    dataset = cfg.get('test_dataloader') or {}
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if not dataset.get('pipeline'):
        raise ValueError(
            f'{cfg.filename} has no test_dataloader with a '
            'pipeline for the images to go through'
        )
    pipeline = Compose(
        [
            step
            for step in dataset.pipeline
            if not re.search(r'Load\w*Annotations\b', str(step['type']))
        ]
    )

    def read(path):
        try:
            with Image.open(path) as image:
                image.load()  # OpenCV takes half an image for a whole one
            sample = pipeline(dict(img_path=str(path), img_id=0))
            batch = model.data_preprocessor(pseudo_collate([sample]))
        except Exception as e:  # whatever a decoder or transform raises
            raise ValueError(
                f'{path} cannot be read and put through the test '
                f'pipeline: {type(e).__name__}: {e}'
            ) from e
        picture = sample['inputs'].flip(0).permute(1, 2, 0)  # BGR to RGB
        if picture.is_floating_point():  # normalised by the pipeline
            low, high = picture.aminmax()
            picture = (picture - low) / (high - low).clamp(min=1e-6)
        return batch['inputs'], picture.numpy()

    return read


def main(argv=None):
    with report_user_errors(PROG):
        args = parse_args(argv)
        cfg = load_config(args.config, args.cfg_options)
        images = find_images(args.images, args.classes, args.max_images)
        model = load_model(cfg, args.checkpoint, args.device or get_device())
        blocks = gates.find_blocks(model.backbone)
        chosen = gates.choose_blocks(blocks, args.blocks)
        read = get_reader(cfg, model)
        out = Path(args.out or f'{cfg.work_dir}/gates')
        check_writable('--out', out)
        shown = args.image or images[0][1]
        strip = gates.plot_strip(model.backbone, *read(shown), chosen)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task('', total=len(images))

            def batches():
                for label, path in images:
                    name = str(path.relative_to(args.images))
                    progress.update(task, description=escape(name))
                    yield label, read(path)[0]
                    progress.advance(task)

            numbers = gates.measure(model.backbone, batches(), chosen)

        with atomic_write(out / 'gates.json') as file:
            json.dump(numbers, file)
        print(out / 'gates.json')
        for name, figure in (
            ('gates', gates.plot(numbers)),
            ('spread', gates.plot_spread(numbers)),
            ('strip', strip),
        ):
            with atomic_write(out / f'{name}.png', 'wb') as file:
                figure.savefig(file, format='png', dpi=150)
            print(out / f'{name}.png')
        print(f'The strip shows {shown}')


if __name__ == '__main__':
    main()
