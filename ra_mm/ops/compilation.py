"""Compile a backbone in place, where measurement shows that training gains from it."""

import importlib.util
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ra_mm._torch import is_compiling, tree_leaves

# Compilation is tried if this fraction of the backbone's time in the rest of the run
# exceeds these seconds. Measured: 5 % on a CPU, 30 % on a GPU; one to some minutes.
EXPECTED_SAVING = 0.1
COMPILATION_S = 180
MAX_GRAPHS = 2  # for sizes that vary
MARGIN = 0.02  # of time, by which the compiled backbone has to be faster
LAUNCH_BOUND = 0.9  # of the time of a pass, in which Python issues its kernels
MIN_ROUNDS, MAX_ROUNDS, LIMIT_S = 3, 50, 4.0


class CompilationFailed(UserWarning):
    """A backbone cannot be compiled here and runs eagerly."""


@dataclass(frozen=True)
class Choice:
    """Whether a backbone is compiled, and the measurement behind it.

    Attributes:
        mode (str): 'eager', 'compiled', or 'compiled with CUDA graphs'.
        seconds (dict[str, float]): The time of a forward and backward pass in each
            mode that was tried.
        compilation_s (float): The time of the compilation.
        note (str): Why compilation was not tried, or failed.
    """

    mode: str
    seconds: dict[str, float]
    compilation_s: float = 0.0
    note: str = ''

    def __str__(self) -> str:
        times = [f'{mode} {1e3 * s:.4g} ms' for mode, s in self.seconds.items()]
        text = f'A pass through the backbone takes: {", ".join(times)}'
        note = self.note or f'compilation took {self.compilation_s:.0f} s'
        return f'{text}. Training goes on {self.mode} ({note})'


class CompiledCall:
    """What calling a compiled backbone does, in the place of ``nn.Module.compile``.

    Training goes through :func:`torch.compile`; evaluation, inputs of other sizes
    than those that a static graph is for, and anything after a failure run eagerly.

    Args:
        module (nn.Module): The backbone.
        sizes (list, optional): :func:`sizes_of` the inputs to compile for. By
            default one graph serves all sizes (one more serves each size of 1).
        cuda_graphs (bool): Whether CUDA graphs launch the kernels.
    """

    def __init__(
        self, module: nn.Module, sizes: list | None = None, cuda_graphs: bool = False
    ) -> None:
        self.module, self.sizes, self.graphs = module, sizes, 0
        self.fx_config = importlib.import_module('torch.fx.experimental._config')
        self.mode = 'compiled with CUDA graphs' if cuda_graphs else 'compiled'
        # On a CPU, convolutions in another layout would need a graph for each size.
        options: Any = {'layout_optimization': False} if sizes is None else None
        self.call = torch.compile(
            module._call_impl,
            dynamic=sizes is None,
            mode='reduce-overhead' if cuda_graphs else None,
            options=options,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        if (
            not (module.training and torch.is_grad_enabled())
            or is_compiling()
            or self.sizes not in (None, sizes_of(args, kwargs))
        ):
            return module._call_impl(*args, **kwargs)
        before = counters['stats']['unique_graphs']
        try:
            # One graph serves all sizes, even if some were equal at first.
            with self.fx_config.patch(use_duck_shape=False):
                outputs = self.call(*args, **kwargs)
            self.graphs += counters['stats']['unique_graphs'] - before
            reason = 'some sizes need graphs of their own'
            failed = self.sizes is None and self.graphs > MAX_GRAPHS
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as e:  # of any of the compilers
            outputs = module._call_impl(*args, **kwargs)  # raises a fault of its own
            reason = f'{type(e).__name__}: {str(e).strip()}'.partition('\n')[0]
            failed = True
        if failed:
            module._compiled_call_impl = None
            text = f'the backbone cannot be compiled and runs eagerly: {reason}'
            warnings.warn(text, CompilationFailed, stacklevel=2)
        return outputs


def sizes_of(args: tuple, kwargs: dict) -> list:
    """The shapes of all tensors among the arguments of a call."""
    return [t.shape for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]


def compile_if_faster(
    module: nn.Module,
    args: tuple,
    kwargs: dict | None = None,
    *,
    steps: int = 10**9,
    dynamic: bool = False,
    cuda_graphs: bool = True,
    context: Callable[[], AbstractContextManager] = nullcontext,
    agree: Callable[[bool], bool] = bool,
) -> Choice:
    """Measure a module forward and backward, and compile it in place if that pays.

    Its class, names, state dict and hooks, and copies of it, stay as they are.
    Weights, running statistics, gradients and the state of PyTorch's random numbers
    have their old values afterwards. To undo it, set
    ``module._compiled_call_impl = None``.

    Args:
        module (nn.Module): The backbone in training mode.
        args (tuple): What a training step calls it with.
        kwargs (dict, optional): The same by keyword.
        steps (int): The training steps that remain.
        dynamic (bool): Whether the sizes of inputs vary. Otherwise, inputs of other
            sizes run eagerly. Defaults to False.
        cuda_graphs (bool): Whether CUDA graphs may launch the kernels, where
            launches limit the speed and sizes do not vary. Gradients may then not
            be accumulated over several backward passes. Defaults to True.
        context (callable): Makes the context of a forward pass, such as autocast.
        agree (callable): Says for the answer of this process whether all processes
            of a training give it.

    Warns:
        CompilationFailed: If compilation is tried and fails.
    """
    step = _Step(module, args, kwargs or {}, context)
    with _state_kept(module):
        module._compiled_call_impl = None
        step()  # the first one prepares, for example cuDNN's choice of algorithms
        eager_s, issued_s = min(step() for _ in range(MIN_ROUNDS))
        seconds = {'eager': eager_s}
        if not compiler_available(step.device.type):
            return Choice('eager', seconds, note='no compiler')
        if not agree(EXPECTED_SAVING * eager_s * steps > COMPILATION_S):
            return Choice('eager', seconds, note='too few steps to gain from it')
        cuda_graphs &= step.device.type == 'cuda' and not dynamic
        cuda_graphs &= issued_s > LAUNCH_BOUND * eager_s
        sizes = None if dynamic else sizes_of(args, step.kwargs)
        compiled = CompiledCall(module, sizes, cuda_graphs)
        start = time.perf_counter()
        module._compiled_call_impl = compiled
        step(), step()
        compilation_s = time.perf_counter() - start
        if agree(module._compiled_call_impl is compiled):
            seconds = _time_modes(step, {'eager': None, compiled.mode: compiled})
            pays = seconds[compiled.mode] < (1 - MARGIN) * seconds['eager']
            note, mode = '', compiled.mode if agree(pays) else 'eager'
        else:
            note, mode = 'compilation failed', 'eager'
        module._compiled_call_impl = compiled if mode != 'eager' else None
    return Choice(mode, seconds, compilation_s, note)


def _time_modes(step, modes):
    """The shortest time in each mode, in rounds whose order alternates."""
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    start = time.perf_counter()
    for i in range(MAX_ROUNDS):
        if i >= MIN_ROUNDS and time.perf_counter() - start > LIMIT_S:
            break
        for mode in list(modes)[:: 1 if i % 2 else -1]:
            step.module._compiled_call_impl = modes[mode]
            times[mode].append(step()[0])
    return {mode: min(values) for mode, values in times.items()}


class _Step:
    """A forward and backward pass; returns its seconds, and those until it is issued."""

    def __init__(self, module, args, kwargs, context):
        self.module, self.args, self.kwargs = module, args, kwargs
        self.context, self.grads = context, None
        self.device = next(module.parameters()).device

    def __call__(self):
        start = self.now()
        with torch.enable_grad(), self.context():
            leaves = tree_leaves(self.module(*self.args, **self.kwargs))
        outputs = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
        if self.grads is None:
            self.grads = [torch.randn_like(t) for t in outputs]
        # Not autograd.grad, for the sake of reentrant checkpoints.
        torch.autograd.backward(outputs, self.grads)
        issued_s = time.perf_counter() - start
        self.module.zero_grad()
        return self.now() - start, issued_s

    def now(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _state_kept(module: nn.Module) -> Iterator[None]:
    """Restore buffers, gradients, and the state of PyTorch's random numbers."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    buffers = [b.clone() for b in module.buffers()]
    grads = [(p, p.grad) for p in module.parameters()]
    module.zero_grad()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(module.buffers(), buffers):
                buffer.copy_(before)
        for p, grad in grads:
            p.grad = grad


def compiler_available(device_type: str) -> bool:
    """Whether :func:`torch.compile` finds its compiler: triton, or one for C++.

    PyTorch 2.6 or newer is required, where hooks on gates can suspend compiled code.
    """
    if not hasattr(torch.compiler, 'set_stance'):
        return False
    if device_type == 'cuda':
        return importlib.util.find_spec('triton') is not None
    compilers = [os.environ.get('CXX', 'g++'), 'clang++', 'cl']
    return device_type == 'cpu' and any(map(shutil.which, compilers))
