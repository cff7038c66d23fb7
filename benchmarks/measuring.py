"""Measure time, peak memory and saved activations of a step, side by side."""

import contextlib
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import timer

from benchmarks.cases import VARIANTS, Case
from benchmarks.paths import choose_path, compare_with_steps, must_compile
from ra_mm.layers import ReverseAttention
from ra_mm.ops import CompilationFailed, force_path, retry_compilation

MIN_ROUNDS = 3


class Step:
    """One step of a variant; call it to run it.

    Args:
        case (Case): The settings.
        variant (str): A key of VARIANTS.
        inputs: The inputs that the case made.

    Attributes:
        path (str): The path of the tail.
        choice (dict): How it was chosen, see :func:`.choose_path`; None if the
            variant has a path, and for inference, which needs no choice.
    """

    def __init__(self, case: Case, variant: str, inputs: Any) -> None:
        attention, self.path, compiles = VARIANTS[variant]
        self.case, self.inputs = case, inputs
        torch.manual_seed(1)
        self.model = case.place(case.build(attention))
        self.model.train(case.what != 'infer')
        for m in self.model.modules():
            if isinstance(m, ReverseAttention):
                # Small but not 0: the gate then works, while a detector still
                # proposes about as many boxes as the plain one.
                nn.init.normal_(m.gate.gamma, std=0.01)
        if case.what == 'tail':
            for t in (*inputs[0], *inputs[1]):
                t.requires_grad_()
        if compiles:
            for m in self.model if case.what == 'tail' else [self.model.backbone]:
                m.compile()
        # A learning rate of 0 keeps the weights; the work is the same.
        self.choice = None
        if self.path is None:
            self.path = 'fused'
            if case.what != 'infer':
                with self.settings():
                    self.choice = choose_path(self.model, self.forward)
                self.path = self.choice['path']
        self.sgd = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=0.0,
            momentum=0.9,
            weight_decay=1e-4,
        )

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Apply the path of the tail and the TF32 setting."""
        with force_path(self.path), tf32_allowed(self.case.precision != 'fp32'):
            yield

    def forward(self, model: nn.Module | None = None) -> Any:
        """Return the loss, or the outputs of tails and of inference.

        Args:
            model (nn.Module, optional): A copy of the model to run instead.
        """
        model = model or self.model
        what, amp = self.case.what, self.case.precision == 'amp'
        with torch.autocast(self.case.device, torch.bfloat16, enabled=amp):
            if what == 'tail':
                z, x, _ = self.inputs
                return [m(*zx) for m, *zx in zip(model, z, x)]
            if what == 'detector':
                losses = model.loss(*self.inputs)
                return model.parse_losses(losses)[0]
            images, labels = self.inputs
            logits = model(images)
            return logits if what == 'infer' else cross_entropy(logits, labels)

    def __call__(self) -> None:
        learns = self.case.what != 'infer'
        with self.settings(), torch.set_grad_enabled(learns):
            out = self.forward()
            if self.case.what == 'tail':
                for m, z, x, dy in list(zip(self.model, *self.inputs))[::-1]:
                    # pop() frees each tail's activations, as in a network.
                    torch.autograd.grad(out.pop(), [z, x, *m.parameters()], dy)
            elif learns:
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
                kept[storage.data_ptr()] = storage  # alive, so the address stays taken
            # Detached: an output that its own node saves would never be freed.
            return t.detach()

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with self.settings(), hooks:
            self.forward()
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
        inference and compiled backbones); ``paper_ratio`` (see
        :meth:`.Case.paper_ratio`). A failed variant has only ``variant`` and
        ``error``. If 'ra' chose a path, ``choice``, see
        :func:`.compare_with_steps`.

    Raises:
        CompilationFailed: If the path 'compiled' cannot be compiled here, unless
            ``keep_going`` records it.
    """
    begin = time.perf_counter()
    torch._dynamo.reset()
    inputs, steps, results, failed = case.inputs(), {}, {}, []

    def record_failure(variant, e):
        if not keep_going or variant == 'plain':
            raise e
        failed.append(dict(variant=variant, error=f'{type(e).__name__}: {e}'))
        progress(f'{variant}: {type(e).__name__}: {e}')

    for variant in ('plain', *variants):
        progress(f'{variant}: warm-up')
        try:
            steps[variant], results[variant] = _warm_up(case, variant, inputs)
        except Exception as e:
            record_failure(variant, e)

    # Long enough for the clock.
    shortest = 0.1 if case.device == 'cuda' else 0.2
    number = max(1, round(shortest / seconds(steps['plain'], 1)))
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
    if retry_compilation():  # it failed in the rounds, which went on eagerly
        for variant in [v for v in others if steps[v].path == 'compiled']:
            del results[variant]
            error = CompilationFailed('after the warm-up; a warning says why')
            record_failure(variant, error)
    measurement = dict(
        **asdict(case),
        rounds=rounds,
        number=number,
        results=[*results.values(), *failed],
    )
    if 'ra' in steps and steps['ra'].choice:
        measurement['choice'] = compare_with_steps(
            steps['ra'].choice, measurement['results']
        )
    return measurement


def _warm_up(case, variant, inputs):
    cuda = case.device == 'cuda'
    before = torch.cuda.memory_allocated() if cuda else 0
    step = Step(case, variant, inputs)
    with must_compile():
        first_s = seconds(step, 1)
    seconds(step, 2)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        seconds(step, 1)
    # In a compiled backbone the hooks would cause another compilation.
    saves = case.what != 'infer' and not VARIANTS[variant].compiles
    return step, dict(
        variant=variant,
        first_s=first_s,
        pairs_ms=[],
        peak_bytes=torch.cuda.max_memory_allocated() - before if cuda else None,
        saved_bytes=step.saved_bytes() if saves else None,
        paper_ratio=case.paper_ratio(variant),
    )


def profile_step(case: Case, variant: str) -> str:
    """Tabulate the operators on which a step spends the most time."""
    step = Step(case, variant, case.inputs())
    seconds(step, 3)
    with torch.profiler.profile() as prof:
        seconds(step, 1)
    return prof.key_averages().table(
        sort_by=f'self_{case.device}_time_total', row_limit=12, max_name_column_width=50
    )
