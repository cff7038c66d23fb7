"""Show what a config's pipelines make of its data, and what is wrong with it.

::

    python tools/check_data.py CONFIG --out DIR
"""

import ra_mm.threads  # noqa: F401  isort: skip

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ra_mm.checks.report import format_report
from ra_mm.checks.rules import build_datasets, check_config, check_samples
from ra_mm.checks.sample import load_parts
from ra_mm.checks.sheet import draw_sheet
from ra_mm.cli import add_cfg_options, load_config, positive_int, report_user_errors
from ra_mm.errors import UserError
from ra_mm.fileio import check_writable

PROG = 'tools/check_data.py'


def parse_args(argv: Sequence[str] | None) -> Namespace:
    what = 'Load a sample of the training and validation data as the network gets it, '
    what += 'compare it with the files, and exit with status 1 if something is wrong'
    parser = ArgumentParser(prog=PROG, description=what)
    add = parser.add_argument
    add('config', help='config file of any of the toolboxes')
    what = 'number of images to load from each dataset, 200 by default'
    add('--num', type=positive_int, default=200, help=what)
    add('--out', type=Path, metavar='DIR', help='folder for the report and pictures')
    add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    with report_user_errors(PROG) as run:
        args = parse_args(argv)
        run.work_dir = args.out
        if args.out:
            check_writable('--out', args.out)
        cfg = load_config(args.config, args.cfg_options)
        found = check_config(cfg, 'data')
        try:
            datasets = build_datasets(cfg, ('train', 'val'))
        except UserError:
            found.raise_errors()  # they say more of the same fault
            raise
        parts = load_parts(datasets, args.num, 0, scan_seconds=60, limit=math.inf)
        found += check_samples(parts)
        report = format_report(parts, found)
        print(report)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / 'report.txt').write_text(report + '\n')
            for part in parts:
                path = args.out / f'{part.key}.png'
                if draw_sheet(part, path):
                    print(path)
        if found.cause is not None:
            raise UserError('some data cannot be loaded, see above') from found.cause
        if found.errors:
            sys.exit(1)


if __name__ == '__main__':
    main()
