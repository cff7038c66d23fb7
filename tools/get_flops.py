"""Count the parameters and multiply-accumulates of a model.

::

    python tools/get_flops.py CONFIG [--shape H W]
    python tools/get_flops.py --paper

What is counted, and what is free: see ra_mm/analysis/complexity.py.
"""

from argparse import ArgumentParser
from decimal import Decimal

from mmengine.config import Config

from ra_mm.analysis.complexity import (
    SHAPES,
    build_model,
    count_flops,
    count_params,
    paper_params,
)
from ra_mm.cli import add_cfg_options, load_config, report_user_errors
from ra_mm.reproduce import paper

PROG = 'tools/get_flops.py'
NOTES = """\
Param.: in Table 4 what mmdet trains, without stem and first stage, and
2.049 M for the classifier of ImageNet, as the paper counts.
FLOPs: multiply-accumulates. A detector has 1,000 proposals. The paper's are
other counters' numbers:
- Tables 2 and 3: thop 0.1.1, to which an element of a batch norm is 4 (here
  2), and what an attention does besides convolutions, nothing. Table 3 is cut
  off, not rounded.
- Table 4: MMDetection 2 (mmcv.cnn.get_model_complexity_info), which adds 1 for
  an element of a bias, a ReLU or a max pooling; upsampling and what an
  attention does besides convolutions are nothing.
So the products and sums of squares of reverse attention are in 'ours' only."""


def parse_args(argv):
    parser = ArgumentParser(
        prog=PROG, description="Count a model's parameters and multiply-accumulates"
    )
    parser.add_argument('config', nargs='?', help='config file of any of the toolboxes')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='height and width of the input, or its side; 224 224 for a '
        'classifier, 800 1280 for a detector, 512 512 for a segmenter if not '
        'given',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--paper',
        type=table,
        nargs='*',
        choices=(2, 3, 4),
        metavar='TABLE',
        help="instead of a config: the paper's Tables 2, 3, 4 or those given, "
        'beside what their models have here',
    )
    args = parser.parse_args(argv)
    if (args.config is None) == (args.paper is None):
        parser.error('expected a config, or --paper')
    if args.paper is not None and (args.shape or args.cfg_options):
        parser.error('--paper goes without --shape and --cfg-options')
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        parser.error(
            f'--shape {" ".join(map(str, args.shape))}: expected '
            'height and width, or one number for both'
        )
    return args


def table(name: str) -> int:
    """Of 4 or table4."""
    return int(name.removeprefix('table'))


def print_line(name, params, flops=None) -> None:
    flops = '' if flops is None else f'{flops / 1e9:12.3f}'
    print(f'{name:16}{params / 1e6:12.3f}{flops}')


def print_model(cfg: Config, shape) -> None:
    model = build_model(cfg)
    shape = shape or SHAPES.get(cfg.get('default_scope'), (224, 224))
    shape = (shape[0], shape[-1])
    try:
        analyzer = count_flops(model, shape)
        flops = analyzer.by_module()
    except Exception as e:  # whatever a head does with the counting's sample
        raise ValueError(
            f'{cfg.filename}: {cfg.model.type} cannot be counted '
            f'at {shape}: {type(e).__name__}: {e}'
        ) from e
    print(f'{cfg.filename}, {shape[0]} x {shape[1]} pixels (H x W)\n')
    print(f'{"":16}{"Param. (M)":>12}{"FLOPs (G)":>12}')
    for name, child in model.named_children():
        if flops[name] or count_params(child):
            print_line(name, count_params(child), flops[name])
    other = flops[''] - sum(flops[name] for name, _ in model.named_children())
    if other:
        print_line('other', 0, other)
    print_line('model', count_params(model), flops[''])
    print_line('trainable', count_params(model, trainable=True))
    print('\nFLOPs are multiply-accumulates, see ra_mm/analysis/complexity.py.')


def print_paper(tables) -> None:
    headings = paper.metrics()
    rows = paper.rows(*(tables or (2, 3, 4)))
    above = None
    for row in rows:
        if (row.table, row.group) != above:
            above = row.table, row.group
            print(
                f'\nTable {row.table}, {row.group}\n{"":20}'
                f'{headings["params"]:>16}{headings["flops"]:>27}\n{"":20}'
                + 2
                * f'{"paper":>9}{"ours":>9}{"diff.":>9}'
            )
        cfg = Config.fromfile(row.config)
        model = build_model(cfg)
        ours = dict(
            params=Decimal(paper_params(model, row.table)) / 10**6,
            flops=Decimal(count_flops(model, SHAPES[cfg.default_scope]).total())
            / 10**9,
        )
        cells = ''
        for metric, value in ours.items():
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


def main(argv=None):
    with report_user_errors(PROG):
        args = parse_args(argv)
        if args.paper is None:
            print_model(load_config(args.config, args.cfg_options), args.shape)
        else:
            print_paper(args.paper)


if __name__ == '__main__':
    main()
