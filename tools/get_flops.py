"""Count the parameters and multiply-accumulates of a model.

::

    python tools/get_flops.py CONFIG [--shape H W]
    python tools/get_flops.py --paper

ra_mm/analysis/complexity.py says which operators are counted.
"""

import ra_mm.threads  # noqa: F401  isort: skip

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).parents[1]))  # has reproduction/

from ra_mm.analysis import complexity
from ra_mm.analysis.complexity import SHAPES, count_flops, count_params
from ra_mm.cli import add_cfg_options, load_config, report_user_errors
from ra_mm.cli.arguments import add_shape_argument
from ra_mm.errors import translate_errors
from ra_mm.models import build_model
from reproduction import paper

PROG = 'tools/get_flops.py'
NOTES = """\
Param.: Table 4 counts the parameters that mmdet trains, so without the stem
and the first stage, plus 2.049 M of the ImageNet classifier.
FLOPs: multiply-accumulates. Detectors have 1,000 proposals. The paper used
other counters:
- Tables 2 and 3: thop 0.1.1, which counts 4 per element of a batch norm (here
  2) and only the convolutions of an attention layer. Table 3 is truncated, not
  rounded.
- Table 4: MMDetection 2 (mmcv.cnn.get_model_complexity_info), which adds 1 per
  element of a bias, a ReLU or a max pooling, and counts neither upsampling nor
  anything but the convolutions of an attention layer.
So only 'ours' includes the products and sums of squares of reverse attention.
The interpolation of RoIAlign is not counted: it depends on the boxes."""


def parse_args(argv: Sequence[str] | None) -> Namespace:
    what = "Count a model's parameters and multiply-accumulates"
    parser = ArgumentParser(prog=PROG, description=what)
    parser.add_argument('config', nargs='?', help='config file of any of the toolboxes')
    what = 'height and width of the input, or one number for both; by default 224 224 '
    what += 'for a classifier, 800 1280 for a detector, 512 512 for a segmenter'
    add_shape_argument(parser, what)
    add_cfg_options(parser)
    what = 'instead of a config: compare the models of the given tables of the paper, '
    what += 'by default 2, 3 and 4, with the printed numbers'
    tables = dict(type=table_number, nargs='*', choices=(2, 3, 4), metavar='TABLE')
    parser.add_argument('--paper', help=what, **tables)
    args = parser.parse_args(argv)
    if (args.config is None) == (args.paper is None):
        parser.error('expected a config, or --paper')
    if args.paper is not None and (args.shape or args.cfg_options):
        parser.error('--paper does not take --shape or --cfg-options')
    return args


def table_number(name: str) -> int:
    """Parse a table's number: '4' or 'table4'."""
    return int(name.removeprefix('table'))


def print_line(name: str, params: int, flops: float | None = None) -> None:
    flops = '' if flops is None else f'{flops / 1e9:12.3f}'
    print(f'{name:16}{params / 1e6:12.3f}{flops}')


def print_model(cfg: Config, shape: tuple[int, int] | None) -> None:
    """Print the complexity of a model and of its parts."""
    shape = shape or SHAPES.get(cfg.get('default_scope'), (224, 224))
    model = build_model(cfg).eval()  # freezes stages as the config says
    size = f'{shape[0]} x {shape[1]} pixels'
    # Heads may need more than the sample they are given.
    what = f'{cfg.filename}: {cfg.model.type} cannot be counted at {size}'
    with translate_errors(what):
        analyzer = count_flops(model, shape)
    parts = complexity.count_parts(model, analyzer)
    print(f'{cfg.filename}, {size} (H x W)\n')
    print(f'{"":16}{"Param. (M)":>12}{"FLOPs (G)":>12}')
    for part in parts:
        print_line(part.name or 'other', part.params, part.flops)
    print_line('model', count_params(model), sum(part.flops for part in parts))
    print_line('trainable', count_params(model, trainable=True))
    print()
    for operator, modules in complexity.not_counted(model, analyzer).items():
        print(f'not counted: {operator} in {", ".join(modules)}')
    for name in complexity.not_called(model, analyzer):
        print(f'not counted: {name}, which is not called')
    print(
        'FLOPs are multiply-accumulates of the forward pass, without what predictions'
    )
    print('make of its outputs, such as masks: see ra_mm/analysis/complexity.py.')


def print_paper(tables: list[int]) -> None:
    """Print the tables of the paper with the numbers counted here."""
    headings = paper.metrics()
    rows = paper.rows(*(tables or (2, 3, 4)))
    previous = None
    for row in rows:
        if (row.table, row.group) != previous:
            previous = row.table, row.group
            print(f'\nTable {row.table}, {row.group}')
            print(f'{"":20}{headings["params"]:>16}{headings["flops"]:>27}')
            print(f'{"":20}' + 2 * f'{"paper":>9}{"ours":>9}{"diff.":>9}')
        cells = ''
        counted = complexity.count_config(Config.fromfile(row.config), as_paper=True)
        for metric, value in zip(('params', 'flops'), map(Decimal, counted)):
            printed = row.paper[metric]
            value = value.quantize(printed)  # to as many digits
            mark = '*' if metric in row.misprints else ' '
            cells += f'{printed:>9}{value:>9}{value - printed:>+8}{mark}'
        print(f'{row.name:20}{cells}', flush=True)
    print()
    for row in rows:
        if 'params' in row.misprints:
            print(f'* {row}: {row.misprints["params"]}')
    print(f'\n{NOTES}')


def main(argv: Sequence[str] | None = None) -> None:
    with report_user_errors(PROG):
        args = parse_args(argv)
        if args.paper is None:
            print_model(load_config(args.config, args.cfg_options), args.shape)
        else:
            print_paper(args.paper)


if __name__ == '__main__':
    main()
