"""Install or remove the stand-in for mmcv's operators, or describe them."""

import argparse
import sys

from ra_mm.errors import UserError
from ra_mm.mmcv_ops.stand_in import COVERAGE, PROG, install, remove, status

COMMANDS = {'install': install, 'remove': remove, 'status': status}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Put torchvision's operators in the place of mmcv's compiled "
        'ones, so that mmcv needs no compilation.',
        epilog=COVERAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'command',
        choices=COMMANDS,
        help='write the stand-in, delete it, or say which operators mmcv uses',
    )
    args = parser.parse_args(argv)
    # Not ra_mm.cli.report_user_errors, whose imports need a working mmcv.
    try:
        print(COMMANDS[args.command]())
    except (UserError, OSError) as e:
        sys.exit(f'{PROG}: error: {e}')


if __name__ == '__main__':
    main()
