"""Measure what an attention costs: time, peak memory, saved activations.

::

    python tools/benchmark.py --what tail train --layout nchw nhwc --out
    python tools/benchmark.py --sweep --variants ra-naive ra-fused --out
    python tools/benchmark.py --what tail --profile ra-fused

In each round every variant runs beside the plain model, so that both meet the
same state of the machine; which goes first alternates. Its figure is the
median of the rounds' ratios, with their quartiles.
"""

import functools
import itertools
import operator
import platform
import shlex
import subprocess
import sys
import time
import timeit
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from mmpretrain.models.backbones.mobilenet_v2 import InvertedResidual
from mmpretrain.models.backbones.resnet import BasicBlock, Bottleneck
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import timer

from ra_mm.analysis import cost_report as cost
from ra_mm.cli import report_user_errors
from ra_mm.layers import ReverseAttention, force_path
from ra_mm.reproduce import paper

PROG = 'tools/benchmark.py'
RESULTS = Path(__file__).parents[1] / 'benchmarks/results'

# Prefix of the config, path of the tail, whether torch.compile sees it all.
VARIANTS = {
    'plain': ('', 'fused', False),
    'se': ('se_', 'fused', False),
    'cbam': ('cbam_', 'fused', False),
    'ra-naive': ('ra_', 'reference', False),
    'ra-given': ('ra_', 'given', False),
    'ra-fused': ('ra_', 'fused', False),
    'ra-compiled': ('ra_', 'compiled', False),
    'plain+compile': ('', 'fused', True),
    'ra+compile': ('ra_', 'fused', True),
}
ATTENTIONS = dict(se_='ra_mm.SE', cbam_='ra_mm.CBAM', ra_='ra_mm.ReverseAttention')
CONFIGS = dict(
    resnet18='r18', resnet50='r50', resnet101='r101', mobilenetv2='mobilenetv2_1.0'
)
# The first of each is where it stays while another one varies.
SWEEP = dict(
    model=['resnet50', 'resnet18', 'resnet101'],
    batch=[4, 1, 2, 8],
    size=[224, 64, 128, 320],
)


@dataclass(frozen=True)
class Case:
    """What is measured, of all variants.

    Attributes:
        what (str): 'tail': what follows the last convolution in the residual
            blocks, forward and backward; 'train': a step of SGD of a
            classifier; 'infer': its forward pass; 'detector': a step of SGD
            of Faster R-CNN.
        model (str): The backbone, of CONFIGS.
        device (str): 'cpu' or 'cuda'.
        precision (str): 'fp32', or 'amp' for autocast to bfloat16.
        layout (str): 'nchw', or 'nhwc' for channels_last.
        batch (int): Images.
        size (int): Side of an image in pixels; in a detector its height, the
            width being as in 1333x800.
    """

    what: str
    model: str
    device: str
    precision: str
    layout: str
    batch: int
    size: int

    def config(self, prefix: str) -> Path:
        name = f'{prefix}{CONFIGS[self.model]}.py'
        if self.what == 'detector':
            return paper.CONFIGS / f'faster_rcnn_{name}'
        return paper.CONFIGS / f'imagenet/{name}'

    def build(self, prefix: str) -> nn.Module:
        """The untrained model, or its tails."""
        if self.what == 'tail':
            return nn.ModuleList(
                Tail(prefix, shape[1], relu) for shape, relu in tails(self)
            )
        cfg = Config.fromfile(self.config(prefix))
        cfg.model.backbone.init_cfg = None
        init_default_scope(cfg.default_scope)
        return revert_sync_batchnorm(MODELS.build(cfg.model))

    def place(self, t):
        """A tensor or a module on the device, in the layout."""
        memory_format = (
            torch.channels_last if self.layout == 'nhwc' else torch.contiguous_format
        )
        return t.to(self.device, memory_format=memory_format)

    def inputs(self):
        """Random images with labels or boxes; z, x and dy of tails."""
        torch.manual_seed(0)
        if self.what == 'tail':
            dtype = dict(fp32=torch.float32, amp=torch.bfloat16)
            return [
                [
                    self.place(torch.randn(shape, dtype=dtype[self.precision]))
                    for shape, _ in tails(self)
                ]
                for _ in ('z', 'x', 'dy')
            ]
        if self.what == 'detector':
            shape = self.size, round(self.size * 1333 / 800)
            padded = tuple(-(-side // 32) * 32 for side in shape)
            images = self.place(torch.randn(self.batch, 3, *padded))
            return images, [
                boxes(shape, padded).to(self.device) for _ in range(self.batch)
            ]
        shape = self.batch, 3, self.size, self.size
        labels = torch.randint(1000, (self.batch,), device=self.device)
        return self.place(torch.randn(shape)), labels


def boxes(shape, padded):
    """A data sample with 8 random boxes."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample(
        metainfo=dict(img_shape=shape, pad_shape=padded, batch_input_shape=padded)
    )
    start = 0.6 * torch.rand(8, 2)
    ends = torch.cat([start, start + 0.1 + 0.3 * torch.rand(8, 2)], dim=1)
    sample.gt_instances = InstanceData(
        bboxes=ends * torch.tensor([*shape[::-1]] * 2), labels=torch.randint(80, (8,))
    )
    return sample


@functools.cache
def tails(case: Case):
    """Output shape of each residual block, and whether it ends in a ReLU."""
    found = []

    def note(block, _, out):
        found.append((out.shape, not isinstance(block, InvertedResidual)))

    backbone = replace(case, what='infer').build('').backbone.to('meta')
    for m in backbone.modules():
        if isinstance(m, (BasicBlock, Bottleneck)) or getattr(
            m, 'use_res_connect', False
        ):
            m.register_forward_hook(note)
    backbone(torch.empty(case.batch, 3, case.size, case.size, device='meta'))
    return found


class Tail(nn.Module):
    """What follows the last convolution in a residual block."""

    def __init__(self, prefix, channels, relu) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()
        if prefix:
            self.attention = MODELS.build(
                dict(type=ATTENTIONS[prefix], channels=channels)
            )
        else:  # as mmpretrain's blocks
            self.attention = operator.iadd if relu else operator.add

    def forward(self, z, x):
        if isinstance(self.attention, ReverseAttention):
            return self.attention.residual(z, self.norm, x, self.act)
        return self.act(self.attention(self.norm(z), x))


class Step:
    """One step of a variant, to call.

    Args:
        case (Case): What the step is of.
        variant (str): Of VARIANTS.
        inputs: Those of the case.
    """

    def __init__(self, case: Case, variant: str, inputs) -> None:
        prefix, self.path, whole = VARIANTS[variant]
        self.case, self.inputs = case, inputs
        torch.manual_seed(1)
        self.model = case.place(case.build(prefix))
        self.model.train(case.what != 'infer')
        for m in self.model.modules():
            if isinstance(m, ReverseAttention):
                # Not 0, but little: a detector should find about as many
                # boxes to suppress as the plain one.
                nn.init.normal_(m.gate.gamma, std=0.01)
        if case.what == 'tail':
            for t in (*inputs[0], *inputs[1]):
                t.requires_grad_()
        if whole:
            for m in self.model if case.what == 'tail' else [self.model.backbone]:
                m.compile()
        # With a rate of 0 every step has the same weights, and all the work.
        self.sgd = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=0.0,
            momentum=0.9,
            weight_decay=1e-4,
        )

    def forward(self):
        """The outputs, or where there is one the loss."""
        what, amp = self.case.what, self.case.precision == 'amp'
        with torch.autocast(self.case.device, torch.bfloat16, enabled=amp):
            if what == 'tail':
                z, x, _ = self.inputs
                return [m(*zx) for m, *zx in zip(self.model, z, x)]
            if what == 'detector':
                losses = self.model.loss(*self.inputs)
                return self.model.parse_losses(losses)[0]
            images, labels = self.inputs
            logits = self.model(images)
            return logits if what == 'infer' else cross_entropy(logits, labels)

    def __call__(self) -> None:
        learns = self.case.what != 'infer'
        with force_path(self.path), torch.set_grad_enabled(learns):
            out = self.forward()
            if self.case.what == 'tail':
                for m, z, x, dy in list(zip(self.model, *self.inputs))[::-1]:
                    # Each frees what it has kept, as in a network.
                    torch.autograd.grad(out.pop(), [z, x, *m.parameters()], dy)
            elif learns:
                out.backward()
                self.sgd.step()
                self.sgd.zero_grad()

    def saved_bytes(self) -> int:
        """What autograd keeps of one forward pass, in bytes.

        Every storage counts once. Parameters and buffers do not count, nor do
        the copies of parameters that autocast makes.
        """
        params = list(self.model.parameters())
        own = {t.untyped_storage().data_ptr() for t in (*params, *self.model.buffers())}
        kept = {}

        def is_copy(t):
            return t.dtype == torch.bfloat16 and any(
                t.shape == w.shape and torch.equal(t, w.to(t.dtype))
                for p in params
                if p.ndim > 1
                for w in (p.data, p.data.mT)
            )

        def pack(t):
            storage = t.untyped_storage()
            if storage.data_ptr() not in own and not is_copy(t):
                kept[storage.data_ptr()] = storage  # the address stays its
            return t

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with force_path(self.path), hooks:
            self.forward()
        return sum(storage.nbytes() for storage in kept.values())


def paper_ratio(case: Case, variant: str) -> float | None:
    """The paper's hours of training, divided by the plain model's."""
    prefix = VARIANTS[variant][0]
    if case.what != 'train' or not prefix:
        return None
    hours = {row.config: row.paper['hours'] for row in paper.rows(2, 3)}
    return float(hours[case.config(prefix)] / hours[case.config('')])


def seconds(step: Callable[[], None], number: int) -> float:
    """The time of one step, the mean of ``number`` on end."""
    return timeit.Timer(step, timer=timer).timeit(number) / number


def measure(
    case: Case, variants: list[str], rounds: int, progress: Callable[[str], None]
) -> dict:
    """Run the variants of a case.

    Args:
        case (Case): What to run.
        variants (list[str]): Of VARIANTS, 'plain' the first.
        rounds (int): How often each variant runs beside the plain model.
        progress (callable): Called with what is going on.

    Returns:
        dict: The case, ``rounds``, ``number`` (steps that are timed
        together) and the ``results``, a dict for each variant: ``pairs_ms``
        (time of a step, plain and its own, in each round), ``peak_bytes`` (the
        most memory allocated in a step, with the model and without the
        inputs; None on a CPU), ``saved_bytes`` (see :meth:`Step.saved_bytes`;
        None for inference) and ``paper_ratio``.
    """
    cuda = case.device == 'cuda'
    torch._dynamo.reset()
    inputs, steps, results = case.inputs(), [], []
    for variant in variants:
        progress(f'{variant} warms up')
        before = torch.cuda.memory_allocated() if cuda else 0
        step = Step(case, variant, inputs)
        seconds(step, 3)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            seconds(step, 1)
        steps.append(step)
        results.append(
            dict(
                variant=variant,
                pairs_ms=[],
                peak_bytes=torch.cuda.max_memory_allocated() - before if cuda else None,
                saved_bytes=None if case.what == 'infer' else step.saved_bytes(),
                paper_ratio=paper_ratio(case, variant),
            )
        )

    # Long enough for the clock.
    number = max(1, round(0.2 / seconds(steps[0], 1)))
    begin = time.perf_counter()
    for i in range(rounds):
        for step, result in zip(steps[1:], results[1:]):
            pair = [steps[0], step]
            ms = {
                j: 1e3 * seconds(pair[j], number) for j in ((0, 1) if i % 2 else (1, 0))
            }
            result['pairs_ms'].append([ms[0], ms[1]])
            results[0]['pairs_ms'].append([ms[0], ms[0]])
        left = (time.perf_counter() - begin) / (i + 1) * (rounds - i - 1)
        progress(f'round {i + 1} of {rounds}, {left / 60:.1f} minutes left')
    return dict(**asdict(case), rounds=rounds, number=number, results=results)


def profile(case: Case, variant: str) -> str:
    """The operators on which a step spends most time."""
    step = Step(case, variant, case.inputs())
    seconds(step, 3)
    with torch.profiler.profile() as prof:
        seconds(step, 1)
    return prof.key_averages().table(
        sort_by=f'self_{case.device}_time_total', row_limit=12, max_name_column_width=50
    )


def environment(argv: list[str], device: str) -> dict:
    """Where the figures come from."""

    def said_by(*command):
        try:
            return subprocess.run(
                command,
                cwd=Path(__file__).parent,
                capture_output=True,
                check=True,
                text=True,
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    cuda = device == 'cuda'
    lines = (said_by('lscpu') or '').splitlines()
    cpu = [
        line.partition(': ')[2] for line in lines if line.startswith('Model name')
    ] or [platform.processor()]
    return dict(
        command=shlex.join(['python', PROG, *argv]),
        commit=said_by(
            'git',
            'describe',
            '--always',
            '--abbrev=40',
            '--exclude=*',
            '--dirty= (changed)',
        ),
        date=time.strftime('%Y-%m-%d %H:%M %z'),
        cpu=cpu[0].strip(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if cuda else None,
        driver=said_by(
            'nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'
        )
        if cuda
        else None,
        cuda=torch.version.cuda if cuda else None,
        python=platform.python_version(),
        torch=torch.__version__,
    )


def parse_args(argv):
    parser = ArgumentParser(
        prog=PROG,
        description='Measure time, peak memory and saved activations of '
        'attentions, each beside the plain model.',
        epilog='Of lists, all combinations are measured.',
    )
    add = parser.add_argument
    add(
        '--what',
        nargs='+',
        default=['train'],
        choices=('tail', 'train', 'infer', 'detector'),
    )
    add('--model', nargs='+', choices=CONFIGS, help='resnet50 if not given')
    add(
        '--variants',
        nargs='+',
        choices=VARIANTS,
        metavar='VARIANT',
        default=[name for name in VARIANTS if '+' not in name],
        help=f'of {", ".join(VARIANTS)}; plain always, and if not given all '
        'without +compile, which is torch.compile of the backbone',
    )
    add('--device', choices=('cpu', 'cuda'), help='cuda if there is one')
    add(
        '--precision',
        nargs='+',
        default=['fp32'],
        choices=('fp32', 'amp'),
        help='amp is autocast to bfloat16',
    )
    add(
        '--layout',
        nargs='+',
        default=['nchw'],
        choices=('nchw', 'nhwc'),
        help='nhwc is channels_last',
    )
    add(
        '--batch',
        nargs='+',
        type=positive,
        metavar='IMAGES',
        help='2 in a detector, else 256 on a GPU and 4 on a CPU',
    )
    add(
        '--size',
        nargs='+',
        type=positive,
        metavar='PIXELS',
        help='side of the images, 224; in a detector their height, 800 on a '
        'GPU and 256 on a CPU',
    )
    add('--rounds', type=positive, default=15)
    add('--threads', type=positive, default=1, help='of a CPU')
    add(
        '--sweep',
        action='store_true',
        help='vary model, batch and size one at a time, the others being the '
        'first of their lists',
    )
    add(
        '--out',
        nargs='?',
        type=Path,
        const=Path(),
        metavar='FILE.json',
        help='write the results, after each measurement; without a name to '
        'benchmarks/results/{cpu,cuda}[_sweep].json',
    )
    add('--plot', action='store_true', help='and draw them, in FILE.png')
    add(
        '--replot',
        type=Path,
        metavar='FILE.json',
        help='instead, print and draw results that were written',
    )
    add(
        '--profile',
        choices=VARIANTS,
        metavar='VARIANT',
        help='instead, print on which operators a step spends most time',
    )
    args = parser.parse_args(argv)

    cuda = torch.cuda.is_available()
    if args.device == 'cuda' and not cuda:
        parser.error('--device cuda: torch finds no GPU here')
    if args.rounds < 2:
        parser.error(f'--rounds {args.rounds}: quartiles need 2 or more')
    if args.sweep and (args.what[1:] or 'detector' in args.what):
        parser.error('--sweep: expected one of --what tail, train, infer')
    if 'detector' in args.what:
        if args.model not in (None, ['resnet50']):
            parser.error('--what detector: the only model is resnet50')
        if any(VARIANTS[v][2] for v in [*args.variants, args.profile or 'se']):
            parser.error('--what detector: has no variants with +compile')
    if args.plot and args.out is None:
        parser.error('--plot: draws what --out writes')
    args.device = args.device or ('cuda' if cuda else 'cpu')
    if args.out == Path():
        name = args.device + ('_sweep' if args.sweep else '')
        args.out = RESULTS / f'{name}.json'
    if args.out is not None and args.out.suffix != '.json':
        parser.error(f'--out {args.out}: expected a name with .json')
    args.variants = ['plain', *(v for v in args.variants if v != 'plain')]
    return args


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'{text}: expected 1 or more')
    return int(text)


def cases(args) -> list[Case]:
    """What the command line asks for."""
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


def run(args, argv) -> dict:
    """Measure, print and write all that is asked for."""
    todo = cases(args)
    data = dict(
        environment=environment(argv, args.device), sweep=args.sweep, measurements=[]
    )
    if args.out is not None:  # before hours are spent
        args.out.parent.mkdir(parents=True, exist_ok=True)
    for i, case in enumerate(todo, 1):
        name = cost.title(asdict(case))

        def progress(text):
            print(f'[{i}/{len(todo)}] {name}: {text}', file=sys.stderr)

        try:
            m = measure(case, args.variants, args.rounds, progress)
        except torch.OutOfMemoryError as e:
            raise ValueError(
                f'{name}: out of memory; choose a smaller --batch or fewer --variants'
            ) from e
        data['measurements'].append(m)
        print(cost.table(m), flush=True)
        if args.out is not None:
            cost.write_json(data, args.out)
    return data


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    with report_user_errors(PROG):
        args = parse_args(argv)
        torch.set_num_threads(args.threads)
        torch.backends.cudnn.benchmark = True
        # Rather no figure than that of a fallback to eager mode.
        dynamo = torch._dynamo.config
        for name in ('fail_on_recompile_limit_hit', 'fail_on_cache_limit_hit'):
            if hasattr(dynamo, name):  # its name depends on the version
                setattr(dynamo, name, True)
        if args.profile:
            for case in cases(args):
                print(cost.title(asdict(case)), args.profile)
                print(profile(case, args.profile))
            return
        data = cost.read(args.replot) if args.replot else run(args, argv)
        if args.replot:
            print('\n'.join(map(cost.table, data['measurements'])))
        if args.plot or args.replot:
            out = args.replot or args.out
            cost.write_picture(data, out.with_suffix('.png'))


if __name__ == '__main__':
    main()
