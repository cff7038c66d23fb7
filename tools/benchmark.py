"""Measure what an attention costs: time, peak memory, saved activations.

::

    python tools/benchmark.py --what tail train --layout nchw nhwc --out
    python tools/benchmark.py --sweep --variants ra-naive ra --out --plot
    python tools/benchmark.py --what tail --profile ra-fused
    python tools/benchmark.py --what tail --precision amp --layout nhwc --bytes
    python tools/benchmark.py --gpu-report report.json

In each round every variant runs next to the plain model, so that both meet the
same state of the machine; the order alternates. The result for a variant is the
median of the ratios of its rounds, with their quartiles.
"""

import itertools
import sys
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is in no wheel

from benchmarks import cost_tables as cost
from benchmarks import gpu_report
from benchmarks.cases import CONFIGS, RIVALS, VARIANTS, Case
from benchmarks.measuring import environment, measure, profile
from benchmarks.tail_bytes import bytes_table
from ra_mm.cli import report_user_errors
from ra_mm.errors import UserError
from ra_mm.ops.dispatch import CompilationFailed
from ra_mm.reproduce import paper

PROG = 'tools/benchmark.py'
RESULTS = Path(__file__).parents[1] / 'benchmarks/results'

# While one of the lists varies, the others stay at their first value.
SWEEP = dict(
    model=['resnet50', 'resnet18', 'resnet101'],
    batch=[4, 1, 2, 8],
    size=[224, 64, 128, 320],
)


def paper_ratio(case: Case, variant: str) -> float | None:
    """The paper's training time over that of the plain model."""
    prefix = VARIANTS[variant][0]
    if case.what != 'train' or not prefix or variant in RIVALS:
        return None
    hours = {row.config: row.paper['hours'] for row in paper.rows(2, 3)}
    return float(hours[case.config(prefix)] / hours[case.config('')])


def parse_args(argv):
    parser = ArgumentParser(
        prog=PROG,
        description='Measure time, peak memory and saved activations of '
        'attentions, each beside the plain model.',
        epilog='Where options take several values, all combinations are measured.',
    )
    add = parser.add_argument
    add(
        '--what',
        nargs='+',
        default=['train'],
        choices=('tail', 'train', 'infer', 'detector'),
    )
    add('--model', nargs='+', choices=CONFIGS, help='default: resnet50')
    add(
        '--variants',
        nargs='+',
        choices=VARIANTS,
        metavar='VARIANT',
        default=[name for name in VARIANTS if '+' not in name and name not in RIVALS],
        help=f'from {", ".join(VARIANTS)}; plain always runs. The variant ra takes '
        'the path that a long training would choose by measurement; with +compile, '
        'torch.compile gets the backbone. Default: plain, se, cbam, ra and ra-*',
    )
    add('--device', choices=('cpu', 'cuda'), help='default: cuda if available')
    add(
        '--precision',
        nargs='+',
        default=['fp32'],
        choices=('fp32', 'tf32', 'amp'),
        help='fp32 forbids TF32; amp is autocast to bfloat16',
    )
    add(
        '--layout',
        nargs='+',
        default=['nchw'],
        choices=('nchw', 'nhwc'),
        help='nhwc is channels-last',
    )
    add(
        '--batch',
        nargs='+',
        type=positive,
        metavar='IMAGES',
        help='default: 2 in a detector, else 256 on a GPU and 4 on a CPU',
    )
    add(
        '--size',
        nargs='+',
        type=positive,
        metavar='PIXELS',
        help='side of the images, by default 224; in a detector their height, '
        'by default 800 on a GPU and 256 on a CPU',
    )
    add('--rounds', type=positive, default=15)
    add('--threads', type=positive, default=1, help='CPU threads')
    add(
        '--sweep',
        action='store_true',
        help='vary model, batch and size one at a time; the others stay at the '
        'first value of their lists',
    )
    add(
        '--out',
        nargs='?',
        type=Path,
        const=Path(),
        metavar='FILE.json',
        help='write the results after each measurement, by default to '
        'benchmarks/results/{cpu,cuda}[_sweep].json',
    )
    add('--plot', action='store_true', help='also draw them, in FILE.png')
    add('--commit', help='recorded with the results, where git cannot tell it')
    instead = parser.add_argument_group('to do something else instead')
    add = instead.add_argument
    add(
        '--replot',
        type=Path,
        metavar='FILE.json',
        help='print and draw earlier results, or print a GPU report',
    )
    add(
        '--profile',
        choices=VARIANTS,
        metavar='VARIANT',
        help='print the operators on which a step spends the most time',
    )
    add(
        '--bytes',
        action='store_true',
        help='print the bytes that the operators of the tails read and write: '
        'uncompiled as on a GPU, compiled for this device',
    )
    add(
        '--gpu-report',
        type=Path,
        metavar='FILE.json',
        help='measure everything of interest on a GPU, most important first',
    )
    add('--minutes', type=float, default=25, help='time budget of --gpu-report')
    add(
        '--parts',
        nargs='+',
        choices=[part.name for part in gpu_report.parts('cuda')],
        metavar='PART',
        help='only these parts of --gpu-report, in this order: '
        + ', '.join(part.name for part in gpu_report.parts('cuda')),
    )
    add(
        '--resume',
        action='store_true',
        help='keep the finished parts of an earlier --gpu-report FILE.json, if any',
    )
    add(
        '--tiny',
        action='store_true',
        help='try --gpu-report in seconds, with small inputs and no compilation',
    )
    args = parser.parse_args(argv)

    cuda = torch.cuda.is_available()
    if args.device == 'cuda' and not cuda:
        parser.error('--device cuda: PyTorch finds no GPU')
    if args.gpu_report and not cuda and args.device != 'cpu':
        parser.error(
            '--gpu-report: PyTorch finds no GPU; --device cpu --tiny tries the '
            'report without one'
        )
    if args.rounds < 2:
        parser.error(f'--rounds {args.rounds}: quartiles need 2 or more')
    if not args.minutes > 0:
        parser.error(f'--minutes {args.minutes}: expected more than 0')
    if args.sweep and (args.what[1:] or 'detector' in args.what):
        parser.error('--sweep: expected one of --what tail, train, infer')
    if 'detector' in args.what:
        if args.model not in (None, ['resnet50']):
            parser.error('--what detector: the only model is resnet50')
        if any(VARIANTS[v][2] for v in [*args.variants, args.profile or 'se']):
            parser.error('--what detector: has no variants with +compile')
    if args.bytes and args.what != ['tail']:
        parser.error('--bytes: counts the operators of --what tail')
    if args.plot and args.out is None:
        parser.error('--plot: draws the results that --out writes')
    args.device = args.device or ('cuda' if cuda else 'cpu')
    if args.out == Path():
        name = args.device + ('_sweep' if args.sweep else '')
        args.out = RESULTS / f'{name}.json'
    for option, path in (('--out', args.out), ('--gpu-report', args.gpu_report)):
        if path is not None and path.suffix != '.json':
            parser.error(f'{option} {path}: expected a name ending in .json')
    args.variants = ['plain', *(v for v in args.variants if v != 'plain')]
    return args


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'{text}: expected 1 or more')
    return int(text)


def cases(args) -> list[Case]:
    """List the cases that the command line asks for."""
    found = []
    for what, *how in itertools.product(args.what, args.precision, args.layout):
        cuda, detector = args.device == 'cuda', what == 'detector'
        default = (
            SWEEP
            if args.sweep
            else dict(
                model=['resnet50'],
                batch=[2 if detector else 256 if cuda else 4],
                size=[(800 if cuda else 256) if detector else 224],
            )
        )
        lists = [getattr(args, key) or default[key] for key in SWEEP]
        points = itertools.product(*lists)
        if args.sweep:
            base = [values[0] for values in lists]
            points = [
                (*base[:i], value, *base[i + 1 :])
                for i, values in enumerate(lists)
                for value in values
            ]
        found += [
            Case(what, model, args.device, *how, batch, size)
            for model, batch, size in points
        ]
    return list(dict.fromkeys(found))


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(args, argv) -> dict:
    """Measure, print and write what the command line asks for."""
    todo = cases(args)
    data = dict(
        environment=environment(PROG, argv, args.device, args.commit),
        sweep=args.sweep,
        measurements=[],
    )
    if args.out is not None:  # fails now rather than after hours
        args.out.parent.mkdir(parents=True, exist_ok=True)
    for i, case in enumerate(todo, 1):
        name = cost.title(asdict(case))

        def report(text):
            progress(f'[{i}/{len(todo)}] {name}: {text}')

        try:
            m = measure(case, args.variants, args.rounds, report)
        except torch.cuda.OutOfMemoryError as e:
            raise UserError(
                f'{name}: out of memory; choose a smaller --batch or fewer --variants'
            ) from e
        except CompilationFailed as e:
            raise UserError(
                f'{name}: {e}; make torch.compile work here, or choose --variants '
                'that need no compiler'
            ) from e
        for result in m['results']:
            result['paper_ratio'] = paper_ratio(case, result['variant'])
        data['measurements'].append(m)
        print(cost.table(m), flush=True)
        if args.out is not None:
            cost.write_json(data, args.out)
    return data


def run_gpu_report(args, argv) -> None:
    """Write the GPU report, and print its tables."""
    parts = {part.name: part for part in gpu_report.parts(args.device, args.tiny)}
    earlier = None
    if args.resume and args.gpu_report.exists():
        earlier = cost.read(args.gpu_report)
    elif args.resume:
        progress(f'{args.gpu_report}: not there yet, so all parts run')
    report = gpu_report.write_report(
        args.gpu_report,
        [parts[name] for name in args.parts or parts if name in parts],
        args.minutes,
        environment(PROG, argv, args.device, args.commit),
        progress,
        earlier,
    )
    print(cost.report_tables(report))


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    with report_user_errors(PROG):
        args = parse_args(argv)
        torch.set_num_threads(args.threads)
        torch.backends.cudnn.benchmark = True
        # A fallback to eager mode would be measured as if it were compiled. This
        # holds for this thread, in which must_compile() has everything compiled.
        dynamo = torch._dynamo.config
        for name in ('fail_on_recompile_limit_hit', 'fail_on_cache_limit_hit'):
            if hasattr(dynamo, name):  # its name depends on the version
                setattr(dynamo, name, True)
        if args.gpu_report:
            run_gpu_report(args, argv)
        elif args.profile:
            for case in cases(args):
                print(cost.title(asdict(case)), args.profile)
                print(profile(case, args.profile))
        elif args.bytes:
            for case in cases(args):
                print(bytes_table(case, args.variants))
        elif args.replot:
            data = cost.read(args.replot)
            if 'parts' in data:
                print(cost.report_tables(data))
            else:
                print('\n'.join(map(cost.table, data['measurements'])))
                cost.write_picture(data, args.replot.with_suffix('.png'))
        else:
            data = run(args, argv)
            if args.plot:
                cost.write_picture(data, args.out.with_suffix('.png'))


if __name__ == '__main__':
    main()
