"""Choice of the fastest path for the tails of a model, by measurement.

A copy of the model runs one forward pass, which records the shape, dtype,
layout and autocast of each tail. Then all tails run forward and backward on
random tensors, as in a training step, on each path in turn.
"""

import copy
import importlib.util
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ra_mm._torch import COMPILES_FUNCTIONS, is_compiling

from .compilation import CompilationFailed
from .paths import force_path, has_hooks, is_plain_bn

# The order of preference for paths whose times are within MARGIN of the fastest:
# 'fused' keeps the fewest activations and needs no compiler.
PREFERENCE = ('fused', 'compiled', 'fused_sum', 'reference')
MARGIN = 0.03
# Compile only if the expected saving, this fraction of the tails' time in the
# whole run, exceeds these seconds; 15 to 37 s were measured on a GPU.
COMPILED_SAVING = 0.1
COMPILATION_S = 60
MIN_ROUNDS, MAX_ROUNDS = 3, 100


@dataclass(frozen=True)
class Choice:
    """The fastest path, and the measurement behind it.

    Attributes:
        path (str): The path to take.
        seconds (dict[str, float]): For each path, the time of all tails of one
            step, forward and backward.
        notes (dict[str, str]): For each path that was not measured, why.
    """

    path: str
    seconds: dict[str, float]
    notes: dict[str, str]

    def __str__(self) -> str:
        times = [f'{path} {1e3 * s:.4g} ms' for path, s in self.seconds.items()]
        times += [f'{path}: {why}' for path, why in self.notes.items()]
        memory = (
            '. RA_MM_TAIL=fused keeps fewer activations, should memory run out'
            if self.path in ('fused_sum', 'reference')
            else ''
        )
        return (
            f'The RA tails of a training step take: {", ".join(times)}. '
            f'Using path {self.path!r} (within {MARGIN:.0%} of the fastest). Results '
            f'differ between paths by rounding' + memory
        )


@dataclass(frozen=True)
class TailCall:
    """One call of :meth:`ra_mm.layers.ReverseAttention.tail`.

    Attributes:
        layer, norm, act: The modules that take part.
        z, x (Tensor): Without memory, on the meta device: shapes, dtypes and
            layouts of the arguments, and whether they require gradients.
        device (torch.device): Where they were.
        autocast (torch.dtype, optional): The dtype of autocast, if it was on.
    """

    layer: Any
    norm: Callable
    act: Callable
    z: Tensor
    x: Tensor
    device: torch.device
    autocast: torch.dtype | None

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(
            self.device.type, self.autocast, enabled=self.autocast is not None
        ):
            return self.layer.tail(z, self.norm, x, self.act)

    def learning(self) -> list[Tensor]:
        """The parameters that get a gradient."""
        modules = [m for m in (self.layer, self.norm) if isinstance(m, nn.Module)]
        return [p for m in modules for p in m.parameters() if p.requires_grad]


def fastest_path(
    model: nn.Module, forward: Callable[[nn.Module], object], steps: int = 0
) -> Choice:
    """Measure the paths on a model's own tails.

    Weights, running statistics and the states of the random number generators
    stay as they are.

    Args:
        model (nn.Module): The model in training mode.
        forward (callable): Called with a copy of the model, runs one forward
            pass of a training step, under autocast if the training is.
        steps (int): How many training steps will follow. Compilation is tried
            only if they are enough to earn it back, see
            :func:`compilation_pays`. Defaults to 0, no compilation.

    Returns:
        Choice: For :func:`.set_training_path`.

    Warns:
        CompilationFailed: If compilation is tried and fails.

    Raises:
        ValueError: If the model has no tail with a choice of paths.
    """
    calls = record_tails(model, forward)
    if not calls:
        raise ValueError(
            'the model has no reverse attention with a choice of paths: expected '
            'a ReverseAttention with its default gate and no hooks, which is neither '
            'frozen nor compiled as part of the model'
        )
    return compare_paths(calls, steps)


def record_tails(
    model: nn.Module, forward: Callable[[nn.Module], object]
) -> list[TailCall]:
    """Run a forward pass of a copy of the model, and record its tails.

    Those that need no gradient, as in frozen stages, have no choice of paths
    and are left out, and so are those that are compiled as part of the model.
    """
    calls: list[TailCall] = []
    model = copy.deepcopy(model)
    classes = {
        m: type(m) for m in model.modules() if getattr(m, 'has_fused_tail', False)
    }
    for layer, cls in classes.items():
        layer.__class__ = _recording(cls, calls)
    with random_states_kept(), torch.enable_grad():
        forward(model)
    for layer, cls in classes.items():
        layer.__class__ = cls
    return calls


def _recording(cls: Any, calls: list[TailCall]) -> Any:
    """A subclass of an attention that adds a record of each tail to ``calls``."""

    class Recording(cls):
        def tail(self, z, norm, x, act):
            if not is_compiling():
                call = _record(self, z, norm, x, act)
                if call.z.requires_grad or call.x.requires_grad or _learns(self):
                    calls.append(call)
            return super().tail(z, norm, x, act)

    return Recording


def _record(layer, z, norm, x, act):
    spec, learns = z, z.requires_grad
    if not is_plain_bn(norm, z):
        # Another norm costs the same on all paths, and may wait for other
        # processes; so may what hooks do. Its output is like x where there
        # is a choice of paths, also if autocast runs it in float32.
        spec, learns = x, learns or _learns(norm)
        norm = nn.Identity()
    act = act if type(act) is nn.ReLU and not has_hooks(act) else nn.Identity()
    spec = torch.empty_like(spec, device='meta', requires_grad=learns)
    x = torch.empty_like(x, device='meta', requires_grad=x.requires_grad)
    return TailCall(layer, norm, act, spec, x, z.device, _autocast_dtype(z))


def compare_paths(calls: list[TailCall], steps: int) -> Choice:
    """Measure the paths that apply, and compilation where it pays."""
    fused = any(is_plain_bn(c.norm, c.z) for c in calls)
    eager = ['reference', 'fused_sum', *(['fused'] if fused else [])]
    device = calls[0].device
    try:
        inputs = _inputs(calls)
        seconds, notes = time_paths(calls, inputs, eager)
        if not seconds:
            raise torch.cuda.OutOfMemoryError('no path fits into the memory')
        best = min(seconds.values())
        if not compiler_available(device.type):
            notes['compiled'] = 'no compiler'
        elif not compilation_pays(best, steps):
            notes['compiled'] = 'not tried for so few steps'
        else:
            # Beside the best eager path, so that both meet the same machine.
            rival = min(seconds, key=seconds.__getitem__)
            again, failed = time_paths(calls, inputs, [rival, 'compiled'])
            notes |= failed
            if 'compiled' in failed:
                warnings.warn(failed['compiled'], CompilationFailed, stacklevel=2)
            if 'compiled' in again:
                ratio = again['compiled'] / again[rival]
                seconds['compiled'] = ratio * seconds[rival]
    finally:
        inputs = None
        if device.type == 'cuda':
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    best = min(seconds.values())
    path = next(p for p in PREFERENCE if seconds.get(p, 1e9) <= (1 + MARGIN) * best)
    return Choice(path, seconds, notes)


def time_paths(
    calls: list[TailCall],
    inputs: list[list[Tensor]],
    paths: list[str],
    limit_s: float = 2.0,
) -> tuple[dict[str, float], dict[str, str]]:
    """Time one step of all tails on each path.

    In each round every path runs once, and which goes first alternates; the
    figure is the shortest time. After ``limit_s`` and three rounds, no further
    round starts.

    Returns:
        tuple: The seconds of each path, and the reasons of those that failed.
    """
    failed = {}
    for path in paths:  # warm up, and compile
        with warnings.catch_warnings():
            warnings.simplefilter('error', CompilationFailed)
            try:
                _time_step(calls, inputs, path)
            except torch.cuda.OutOfMemoryError:
                failed[path] = 'out of memory'
            except CompilationFailed as e:
                failed[path] = str(e)
    times: dict[str, list[float]] = {p: [] for p in paths if p not in failed}
    start = time.perf_counter()
    for i in range(MAX_ROUNDS):
        if i >= MIN_ROUNDS and time.perf_counter() - start > limit_s:
            break
        for path in list(times)[:: 1 if i % 2 else -1]:
            times[path].append(_time_step(calls, inputs, path))
    return {path: min(values) for path, values in times.items()}, failed


def compilation_pays(step_s: float, steps: int) -> bool:
    """Whether a tenth of the tails' time in the run exceeds a minute.

    Args:
        step_s (float): The time of all tails in one step, uncompiled.
        steps (int): The steps of the run.
    """
    return COMPILED_SAVING * step_s * steps > COMPILATION_S


def compiler_available(device_type: str) -> bool:
    """Whether :func:`torch.compile` finds its compiler: triton, or one for C++."""
    if not COMPILES_FUNCTIONS:
        return False
    if device_type == 'cuda':
        return importlib.util.find_spec('triton') is not None
    compilers = [os.environ.get('CXX', 'g++'), 'clang++', 'cl']
    return device_type == 'cpu' and any(map(shutil.which, compilers))


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random number generators of Python, NumPy and PyTorch."""
    np = sys.modules.get('numpy')
    states = random.getstate(), np and np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        if np:
            np.random.set_state(states[1])


def _learns(module):
    """Whether a module, or a callable that is none, has a parameter to train."""
    return isinstance(module, nn.Module) and any(
        p.requires_grad for p in module.parameters()
    )


def _inputs(calls):
    """Random z, x and dy of each call; calls with the same shapes share them."""
    made: dict[tuple, tuple] = {}
    with random_states_kept():
        for call in calls:
            if _key(call) not in made:
                specs = call.z, call.x, call.x
                z, x, dy = (torch.randn_like(t, device=call.device) for t in specs)
                z.requires_grad_(call.z.requires_grad)
                x.requires_grad_(call.x.requires_grad)
                made[_key(call)] = z, x, dy
    return [made[_key(call)] for call in calls]


def _key(call):
    return call.device, *(
        (t.shape, t.stride(), t.dtype, t.requires_grad) for t in (call.z, call.x)
    )


def _time_step(calls, inputs, path):
    device = calls[0].device
    with force_path(path), torch.enable_grad():
        start = _now(device)
        outputs = [call(z, x) for call, (z, x, _) in zip(calls, inputs)]
        for call, (z, x, dy) in list(zip(calls, inputs))[::-1]:
            y = outputs.pop()  # frees the activations, as in a network
            if y.requires_grad:
                learning = [t for t in (z, x) if t.requires_grad] + call.learning()
                torch.autograd.grad(y, learning, dy, allow_unused=True)
        return _now(device) - start


def _now(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _autocast_dtype(t):
    """The dtype of autocast, or None where it is off."""
    kind = t.device.type
    if hasattr(torch, 'get_autocast_dtype'):
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    elif kind == 'cpu':  # before PyTorch 2.4
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return dtype if enabled else None
