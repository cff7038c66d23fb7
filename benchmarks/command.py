"""The command line of ``tools/benchmark.py``."""

import itertools
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path

import torch

from benchmarks.cases import CONFIGS, RIVALS, VARIANTS, Case
from benchmarks.cost_plots import write_picture
from benchmarks.cost_tables import cost_table, report_tables, title
from benchmarks.gpu_report import report_parts, write_gpu_report
from benchmarks.measuring import measure_case
from benchmarks.recording import describe_environment, read_results, write_results
from ra_mm.cli import positive_int, report_user_errors
from ra_mm.errors import UserError
from ra_mm.fileio import check_writable
from ra_mm.ops import CompilationFailed

PROG = 'tools/benchmark.py'
STEPS = dict(
    train='an SGD step of a classifier',
    infer='the forward pass of a classifier',
    detector='an SGD step of Faster R-CNN with a ResNet-50, images of several sizes',
    segmenter='an SGD step of UperNet with a ResNet-50',
    sweep='a training step, while model, batch and size vary one at a time',
)


def parse_args(argv: list[str] | None = None) -> Namespace:
    text = 'Measure time, peak memory and saved activations of attentions, each beside '
    parser = ArgumentParser(prog=PROG, description=f'{text}the plain model.')
    parser.set_defaults(device='cpu', threads=1, commit=None)
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for what, text in STEPS.items():
        add_step(commands.add_parser(what, help=text, description=text), what)

    text = 'print the tables of a file of results, and draw its picture'
    command = commands.add_parser('show', help=text, description=text)
    command.set_defaults(run=show)
    command.add_argument('file', type=json_file, metavar='FILE.json')

    text = 'everything of interest on a GPU, most important first'
    command = commands.add_parser('gpu-report', help=text, description=text)
    command.set_defaults(run=report_gpu)
    add = command.add_argument
    add('file', type=json_file, metavar='FILE.json')
    add('--device', choices=('cpu', 'cuda'), default='cuda')
    add('--minutes', type=float, default=25, help='time budget, 25 by default')
    names = [part.name for part in report_parts('cuda')]
    help = f'only these parts, in this order: {", ".join(names)}'
    add('--parts', nargs='+', choices=names, metavar='PART', help=help)
    help = 'keep the finished parts of an earlier FILE.json, if any'
    add('--resume', action='store_true', help=help)
    help = 'try it in seconds, not compiled and, with --device cpu, without a GPU'
    add('--tiny', action='store_true', help=help)
    add('--commit', help='recorded with the results, where git cannot tell it')

    return parser.parse_args(argv)


def add_step(command: ArgumentParser, what: str) -> None:
    """Add the settings of a :class:`.Case`, and of its measurement."""
    command.set_defaults(run=run_cases, what=what)
    add = command.add_argument
    gpu = 'cuda' if torch.cuda.is_available() else 'cpu'
    add('--device', choices=('cpu', 'cuda'), default=gpu)
    choices = ('fp32', 'tf32', 'amp')
    help = 'fp32 (without TF32) by default; amp is autocast to bfloat16'
    add('--precision', nargs='+', default=['fp32'], choices=choices, help=help)
    layouts, help = ('nchw', 'nhwc'), 'nchw by default; nhwc is channels-last'
    add('--layout', nargs='+', default=['nchw'], choices=layouts, help=help)
    for key, values in default_lists(what, gpu).items():
        kind = dict(choices=CONFIGS) if key == 'model' else dict(type=positive_int)
        help = f'default: {" ".join(map(str, values))}'
        add(f'--{key}', nargs='+', metavar=key.upper(), help=help, **kind)
    add('--threads', type=positive_int, default=1, help='CPU threads')
    names = [name for name in VARIANTS if name != 'plain']
    usual = [v for v in names if not VARIANTS[v].compiles and v not in RIVALS]
    help = f'from {", ".join(names)}; default: {" ".join(usual)}. The backbones of ra '
    help += 'and plain-chosen are compiled if that is faster, as in a long training'
    variants = dict(choices=names, metavar='VARIANT', default=usual)
    add('--variants', nargs='+', help=help, **variants)
    add('--rounds', type=positive_int, default=15)
    help = 'write the results after each measurement'
    add('--out', type=json_file, metavar='FILE.json', help=help)


def json_file(text: str) -> Path:
    if not text.endswith('.json'):
        raise ArgumentTypeError(f'{text}: expected a name ending in .json')
    return Path(text)


def default_lists(what: str, device: str) -> dict[str, list]:
    """The models, numbers of images, and sides of an image (heights in detectors)."""
    gpu = device == 'cuda'
    if what in ('detector', 'segmenter'):
        sizes = dict(detector=800, segmenter=512)
        return dict(batch=[2], size=[sizes[what] if gpu else 256])
    if what == 'sweep':
        models = ['resnet50', 'resnet18', 'resnet101']
        return dict(model=models, batch=[4, 1, 2, 8], size=[224, 64, 128, 320])
    return dict(model=['resnet50'], batch=[256 if gpu else 4], size=[224])


def list_cases(args: Namespace) -> list[Case]:
    """List the cases that the command line asks for."""
    lists = dict(model=['resnet50']) | default_lists(args.what, args.device)
    lists = [getattr(args, key, None) or values for key, values in lists.items()]
    points = itertools.product(*lists)
    if args.what == 'sweep':
        base = [values[0] for values in lists]
        varied = [(i, value) for i, values in enumerate(lists) for value in values]
        points = dict.fromkeys((*base[:i], v, *base[i + 1 :]) for i, v in varied)
    what = 'train' if args.what == 'sweep' else args.what
    return [
        Case(what, model, args.device, precision, layout, batch, size)
        for precision, layout, (model, batch, size) in itertools.product(
            args.precision, args.layout, points
        )
    ]


def print_progress(name: str, text: str) -> None:
    print(f'{name}: {text}', file=sys.stderr, flush=True)


def run_cases(args: Namespace, environment: dict) -> None:
    """Measure each case, and print and write its results."""
    cases = list_cases(args)
    data = dict(environment=environment, sweep=args.what == 'sweep', measurements=[])
    if args.out:
        check_writable('--out', args.out.parent)
    for i, case in enumerate(cases, 1):
        name = title(vars(case))
        progress = partial(print_progress, f'[{i}/{len(cases)}] {name}')
        try:
            m = measure_case(case, args.variants, args.rounds, progress)
        except (torch.cuda.OutOfMemoryError, CompilationFailed) as e:
            advice = 'or a smaller --batch if the memory does not suffice'
            raise UserError(f'{name}: {e}; choose other --variants, {advice}') from e
        data['measurements'].append(m)
        print(cost_table(m), flush=True)
        if args.out:
            write_results(data, args.out)


def show(args: Namespace, environment: dict) -> None:
    data = read_results(args.file)
    if 'parts' in data:
        print(report_tables(data))
    else:
        print('\n'.join(map(cost_table, data['measurements'])))
        write_picture(data, args.file.with_suffix('.png'))


def report_gpu(args: Namespace, environment: dict) -> None:
    """Write the GPU report, and print its tables."""
    parts = {part.name: part for part in report_parts(args.device, args.tiny)}
    todo = [parts[name] for name in args.parts or parts if name in parts]
    earlier = read_results(args.file) if args.resume and args.file.exists() else None
    progress = partial(print_progress, 'gpu-report')
    setting = args.minutes, environment, progress, earlier
    print(report_tables(write_gpu_report(args.file, todo, *setting)))


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    with report_user_errors(PROG):
        args = parse_args(argv)
        if args.device == 'cuda' and not torch.cuda.is_available():
            raise UserError('--device cuda: PyTorch finds no GPU')
        torch.set_num_threads(args.threads)
        torch.backends.cudnn.benchmark = True
        args.run(args, describe_environment(PROG, argv, args.device, args.commit))
