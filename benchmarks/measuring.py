"""Measure time, peak memory and saved activations of a step, side by side."""

import contextlib
import itertools
import time
import timeit
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import timer

from benchmarks.cases import VARIANTS, Case
from ra_mm.layers import ReverseAttention
from ra_mm.ops import CompilationFailed, compile_if_faster, force_path
from ra_mm.ops.compilation import CompiledCall, sizes_of

MIN_ROUNDS = 3


class Step:
    """One step of a variant; call it to run it with the next batch.

    Args:
        case (Case): The settings.
        variant (str): A key of VARIANTS.
        inputs (list): The batches that the case made.

    Attributes:
        choice (Choice): Whether the backbone is compiled, if the variant chooses.
    """

    def __init__(self, case: Case, variant: str, inputs: list) -> None:
        attention, self.path, self.compiles = VARIANTS[variant]
        self.case, self.batches = case, itertools.cycle(inputs)
        torch.manual_seed(1)
        self.model = case.place(case.build(attention))
        self.model.train(case.what != 'infer')
        for m in self.model.modules():
            if isinstance(m, ReverseAttention):
                # Small but not 0: the gate then works, while a detector still
                # proposes about as many boxes as the plain one.
                nn.init.normal_(m.gate.gamma, std=0.01)
        # A learning rate of 0 keeps the weights; the work is the same.
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.sgd = torch.optim.SGD(learned, lr=0.0, momentum=0.9, weight_decay=1e-4)
        self.choice = None
        backbone, images = self.model.backbone, inputs[0][0]
        dynamic = len(inputs) > 1
        if self.compiles == 'chosen' and case.what != 'infer':
            options = dict(dynamic=dynamic, context=self.autocast)
            with self.settings():
                self.choice = compile_if_faster(backbone, (images,), **options)
        elif self.compiles == 'compiled' and case.what == 'infer':
            backbone.compile()
        elif self.compiles in ('compiled', 'graphs'):
            sizes, graphs = sizes_of((images,), {}), self.compiles == 'graphs'
            call = CompiledCall(
                backbone, None if dynamic else sizes, cuda_graphs=graphs
            )
            backbone._compiled_call_impl = call

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Apply the path and the TF32 setting. What must be compiled does not run eagerly."""
        path = force_path(self.path) if self.path else contextlib.nullcontext()
        tf32 = tf32_allowed(self.case.precision != 'fp32')
        with path, tf32, warnings.catch_warnings():
            action = 'always' if self.compiles == 'chosen' else 'error'
            warnings.simplefilter(action, CompilationFailed)
            yield

    def autocast(self) -> contextlib.AbstractContextManager:
        amp = self.case.precision == 'amp'
        return torch.autocast(self.case.device, torch.bfloat16, enabled=amp)

    def forward(self) -> Tensor:
        """Return the loss, or the output of inference."""
        images, labels = next(self.batches)
        with self.autocast():
            if self.case.what in ('detector', 'segmenter'):
                return self.model.parse_losses(self.model.loss(images, labels))[0]
            logits = self.model(images)
            is_loss = self.case.what == 'train'
            return cross_entropy(logits, labels) if is_loss else logits

    def __call__(self) -> None:
        learns = self.case.what != 'infer'
        with self.settings(), torch.set_grad_enabled(learns):
            out = self.forward()
            if learns:
                out.backward()
                self.sgd.step()
                self.sgd.zero_grad()

    def saved_bytes(self) -> int:
        """Sum the bytes that autograd keeps from one forward pass.

        Every storage counts once. Parameters, buffers and the copies of
        parameters that autocast makes do not count.
        """
        params = list(self.model.parameters())
        own = {t.untyped_storage().data_ptr() for t in (*params, *self.model.buffers())}

        def is_copy(t):
            return t.dtype == torch.bfloat16 and any(
                t.shape == w.shape and torch.equal(t, w.to(t.dtype))
                for p in params
                if p.ndim > 1
                for w in (p.data, p.data.mT)
            )

        kept = {}

        def pack(t):
            storage = t.untyped_storage()
            if storage.data_ptr() not in own and not is_copy(t):
                kept[storage.data_ptr()] = storage

        with self.settings(), saved_tensors_hooks(pack, lambda packed: packed):
            self.forward()  # there is no backward pass, so nothing is unpacked
        return sum(storage.nbytes() for storage in kept.values())


@contextlib.contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Allow TF32 in convolutions and matrix products, or forbid it."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [b.allow_tf32 for b in backends]
    for b in backends:
        b.allow_tf32 = allowed
    try:
        yield
    finally:
        for b, value in zip(backends, before):
            b.allow_tf32 = value


def seconds(step: Callable[[], object], number: int) -> float:
    """Time ``number`` consecutive steps, and return the mean of one."""
    # This timer synchronizes with the GPU.
    return timeit.Timer(step, timer=timer).timeit(number) / number


def measure_case(
    case: Case,
    variants: list[str],
    rounds: int,
    progress: Callable[[str], None],
    limit_s: float = float('inf'),
    keep_going: bool = False,
) -> dict:
    """Run the variants of a case in paired rounds.

    In each round every variant runs beside the plain model, so that both meet
    the same state of the machine; which of the two goes first alternates.

    Args:
        case (Case): The settings.
        variants (list[str]): Keys of VARIANTS besides 'plain'.
        rounds (int): How often each variant runs beside the plain model.
        progress (callable): Called with a line of text about the state.
        limit_s (float): After this many seconds no further round starts, except
            the first 3. Defaults to no limit.
        keep_going (bool): Record the error of a variant that fails to run
            once, instead of raising it; 'plain' must run. Defaults to False.

    Returns:
        dict: The case, ``rounds``, ``number`` (consecutive steps in one timing)
        and ``results``, one dict for each variant: ``variant``; ``first_s``
        (time of the first step, compilation included); ``pairs_ms`` (time of a
        step, of plain and of the variant, in each round); ``peak_bytes`` (peak
        memory allocated in a step, with the model, without the inputs; None on
        a CPU); ``saved_bytes`` (see :meth:`Step.saved_bytes`; None for
        inference); ``paper_ratio`` (see :meth:`.Case.paper_ratio`); ``choice`` (a
        :class:`ra_mm.ops.compilation.Choice` as a dict, or None). A failed variant
        has only ``variant`` and ``error``.

    Raises:
        CompilationFailed: If a backbone cannot be compiled here, unless
            ``keep_going`` records it.
    """
    begin = time.perf_counter()
    torch._dynamo.reset()
    inputs, steps, results, failed = case.inputs(), {}, {}, []
    for variant in ('plain', *variants):
        progress(f'{variant}: warm-up')
        try:
            steps[variant], results[variant] = _warm_up(case, variant, inputs)
        except Exception as e:
            if not keep_going or variant == 'plain':
                raise
            failed.append(dict(variant=variant, error=f'{type(e).__name__}: {e}'))
            progress(f'{variant}: {failed[-1]["error"]}')

    # Long enough for the clock, and with all batches.
    shortest = 0.1 if case.device == 'cuda' else 0.2
    passes = shortest / seconds(steps['plain'], len(inputs)) / len(inputs)
    number = max(1, round(passes)) * len(inputs)
    others = [variant for variant in steps if variant != 'plain']
    first_round = time.perf_counter()
    for i in range(rounds):
        if i >= MIN_ROUNDS and time.perf_counter() - begin > limit_s:
            rounds = i
            break
        for variant in others or ['plain']:
            pair = ['plain', variant] if i % 2 else [variant, 'plain']
            ms = {v: 1e3 * seconds(steps[v], number) for v in pair}
            results['plain']['pairs_ms'].append([ms['plain'], ms['plain']])
            if others:
                results[variant]['pairs_ms'].append([ms['plain'], ms[variant]])
        left = (time.perf_counter() - first_round) / (i + 1) * (rounds - i - 1)
        progress(f'round {i + 1} of {rounds}, {left / 60:.1f} minutes left')
    measured = [*results.values(), *failed]
    return dict(**asdict(case), rounds=rounds, number=number, results=measured)


def _warm_up(case, variant, inputs):
    cuda = case.device == 'cuda'
    before = torch.cuda.memory_allocated() if cuda else 0
    step = Step(case, variant, inputs)
    first_s = seconds(step, 1)
    seconds(step, 2 * len(inputs))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        seconds(step, len(inputs))
    return step, dict(
        variant=variant,
        first_s=first_s,
        pairs_ms=[],
        peak_bytes=torch.cuda.max_memory_allocated() - before if cuda else None,
        saved_bytes=None if case.what == 'infer' else step.saved_bytes(),
        paper_ratio=case.paper_ratio(variant),
        choice=step.choice and asdict(step.choice),
    )
