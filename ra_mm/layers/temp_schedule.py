"""Temperature annealing of reverse attention (paper, Eq. 8 and Table 9)."""

import gc
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakSet, ref

from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from ra_mm.validation import check_arg, integer, number

ANNEALED: WeakSet[nn.Module] = WeakSet()  # the gates whose temp a schedule sets
UNSEEN: WeakSet[nn.Module] = WeakSet()  # new ones and copies that are watched


class TempSchedule:
    """Lower the temp of a model's M-GRN gates linearly from ``start`` to ``end``.

    For a training loop of one's own, called like a learning rate scheduler; in
    OpenMMLab, :class:`ra_mm.hooks.TempAnnealingHook` does the same::

        schedule = ra_mm.TempSchedule(model, length=10 * len(loader))
        for images, labels in loader:
            ...
            optimizer.step()
            schedule.step()

    'In this paper, we linearly reduce temp from 30 to 1 in the first 10 epochs
    of training.' (paper, 'RA block'). The first step has temp = start; from
    step ``length`` on temp = end.

    Training that starts from trained weights, any gamma other than 0, goes on
    from their temp, see :func:`.first_temp`.

    Args:
        model (nn.Module or iterable of nn.Module): The model; or several, such
            as the model and its moving average.
        length (int): Number of steps that the annealing takes.
        start (float): temp of the first step. Defaults to 30.
        end (float): temp after the annealing. Defaults to 1.

    Raises:
        ValueError: If not start >= end > 0, length < 1, or the model has no
            gate with a temp.
    """

    def __init__(
        self,
        model: nn.Module | Iterable[nn.Module],
        length: int,
        start: float = 30.0,
        end: float = 1.0,
    ) -> None:
        check_schedule(start, end, length)
        self.models = [model] if isinstance(model, nn.Module) else [*model]
        self.gates = find_gates(self.models)
        if not self.gates:
            text = 'TempSchedule: the model has no reverse attention; of an exported'
            raise ValueError(f'{text} one, pass the model that it was made from')
        if any(gate.temp.is_meta for gate in self.gates):
            text = 'TempSchedule: the model is on the meta device: make the schedule'
            raise ValueError(f'{text} after to_empty() and load_state_dict()')
        if any(gate in ANNEALED and gate.temp > end for gate in self.gates):
            warnings.warn(
                'TempSchedule: another schedule anneals these gates. If this one is made '
                'in each epoch, make it once, before the training',
                stacklevel=2,
            )
        ANNEALED.update(self.gates)
        # A gate that is trained, frozen and at its end, as a teacher's, stays as it is.
        self.gates = [g for g in self.gates if _is_open(g, end)] or self.gates
        self.length = length
        self.start = first_temp(self.gates, start, end)
        self._start = start  # of weights that are not trained
        self.end = end
        self.steps = 0
        self._calls = self._backward_passes = self._updates = self._version = 0
        if trained := [gate for gate in self.gates if gate.gamma.requires_grad]:
            self._watched = trained[0].gamma
            self._watch = self._watched.register_hook(self._count_backward_pass)
        self._apply()

    @property
    def temp(self) -> float:
        """The temp of the current step."""
        return temp_at(self.steps / self.length, self.start, self.end)

    def step(self) -> None:
        """Set the temp of the next step. Call it after the optimizer's step."""
        self._calls += 1
        if self._calls == 1:
            self._follow_loaded_weights()
        elif self._calls == min(100, max(10, self.length)):
            self._warn_of_optimizer()
        if self._calls == 1 or self.steps == self.length:
            self._find_new_gates()
            self._warn_of_gates()
        if self._calls == 100 * self.length:
            warnings.warn(
                f'TempSchedule: temp fell to {self.end:g} in {self.length} of '
                f'{self._calls} steps: length is a number of steps, not of epochs',
                stacklevel=2,
            )
        self.steps += 1
        self._apply()

    def _apply(self):
        for gate in self.gates:
            gate.temp.fill_(self.temp)  # in place: no recompilation, no device sync

    def _follow_loaded_weights(self):
        """Go on from the temp of weights that were loaded after this schedule began."""
        temp = max(gate.temp.item() for gate in self.gates)
        if math.isclose(temp, self.temp, rel_tol=0.01):  # bfloat16 rounds
            if self.end < self.start != self._start:
                warnings.warn(
                    f'TempSchedule: weights of temp = {temp:g}, from within an annealing, '
                    f'begin another one of {self.length} steps. To resume, load the '
                    'schedule too: schedule.load_state_dict()',
                    stacklevel=3,
                )
            return
        if self.start > self.end:
            progress = (self.start - temp) / (self.start - self.end)
            self.steps = round(self.length * min(max(progress, 0), 1))
        warnings.warn(
            f'TempSchedule: the model has weights of temp = {temp:g}, loaded after the '
            f'schedule was made, which goes on from step {self.steps} of {self.length}. '
            'To resume exactly, save the schedule too: schedule.state_dict() and '
            'schedule.load_state_dict()',
            stacklevel=3,
        )

    def _find_new_gates(self):
        """Take in gates of blocks that were replaced since this schedule was made."""
        new = [gate for gate in find_gates(self.models) if gate not in ANNEALED]
        ANNEALED.update(new)
        self.gates += new

    def _warn_of_gates(self):
        if not any(g.gamma.requires_grad or g.gamma.any() for g in self.gates):
            warnings.warn(
                'TempSchedule: all gates are frozen at gamma = 0, so the model stays '
                "plain. Set requires_grad of the parameters named 'gamma', and give them "
                'to the optimizer; if that is later, make the schedule then',
                stacklevel=3,
            )
        own = Counter(len(gate.gamma) for gate in self.gates)
        if own <= Counter(len(gate.gamma) for gate in _find_other_gates()):
            warnings.warn(
                'TempSchedule: there is another model with the same gates, whose temp '
                'stays as it is. If it is a moving average that follows this model, '
                'anneal both: TempSchedule([model, average], ...)',
                stacklevel=3,
            )

    def _warn_of_optimizer(self):
        learned = [gate for gate in self.gates if gate.gamma.requires_grad]
        if learned and not is_trained(self.gates):
            warnings.warn(
                f'TempSchedule: gamma is 0 in all gates after {self._calls} steps. Give '
                "the parameters named 'gamma' to the optimizer: make it after the "
                'model is converted',
                stacklevel=3,
            )

    @unserializable_hook
    def _count_backward_pass(self, grad):
        """Warn if temp lags: an accumulated gradient has less than 64 passes a step."""
        if not self._backward_passes and not is_trained(self.gates):  # reset since
            self.start = self._start
            self._apply()
        self._backward_passes += 1
        self._updates += self._watched._version != self._version
        self._version = self._watched._version
        if self._backward_passes < self.length:
            return
        self._watch.remove()
        is_rare = self._calls < max(self.length / 64, self._updates / 4)
        if is_rare or self._calls > 2 * self._updates > 2:
            warnings.warn(
                f'TempSchedule: step() was called {self._calls} times in {self.length} '
                f'backward passes and {self._updates} steps of the optimizer, so temp '
                f'falls too {"slowly" if is_rare else "fast"}: call it after each step '
                'of the optimizer',
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """The progress, to save with a checkpoint."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the schedule that was saved, with its length, start and end.

        Raises:
            ValueError: If it is not what :meth:`state_dict` returned.
        """
        if set(state) != set(STATE):
            raise ValueError(f'TempSchedule: keys {sorted(state)}, expected {STATE}')
        check_arg(integer(0), steps=state['steps'])
        check_schedule(state['start'], state['end'], state['length'])
        for name in STATE:
            setattr(self, name, state[name])
        self._start = self.start
        self._apply()


STATE = ['end', 'length', 'start', 'steps']


def find_gates(models: Iterable[nn.Module]) -> list[Any]:
    """Return all gates of models: modules with ``gamma`` (C,) and a 0-dim ``temp``.

    A model that was traced, by torch.fx (feature extractors, quantization) or
    torch.export, keeps the tensors of an :class:`.MGRN` in a module of another class.
    """
    return [m for model in models for m in model.modules() if _is_gate(m)]


def _is_gate(module):
    gamma, temp = (getattr(module, name, None) for name in ('gamma', 'temp'))
    return isinstance(gamma, Tensor) and isinstance(temp, Tensor) and temp.dim() == 0


def _is_open(gate, end):
    return gate.gamma.requires_grad or not gate.gamma.any() or gate.temp > end


def _find_other_gates():
    """Return the gates of this process that no schedule anneals."""
    gc.collect()
    modules = [m for m in gc.get_objects() if issubclass(type(m), nn.Module)]
    return _without_schedule(m for m in modules if _is_gate(m))


def _without_schedule(gates):
    annealed = {id(gate.gamma) for gate in ANNEALED}  # which traced models share
    new = [gate for gate in gates if gate not in ANNEALED]
    return [gate for gate in new if id(gate.gamma) not in annealed]


def watch(gate: Any) -> None:
    """Let the first backward pass warn if no schedule anneals a new gate.

    Training from gamma = 0 with temp = 1 all along costs accuracy, and nothing else
    shows that the schedule was forgotten; or lost, within an annealing.
    """
    if not gate.gamma.requires_grad:
        return
    UNSEEN.add(gate)
    known = ref(gate)

    @unserializable_hook
    def check(grad):
        handle.remove()
        gate: Any = known()
        if gate not in UNSEEN or not _without_schedule([gate]):
            return
        if gate.temp > 1 if is_trained([gate]) else gate.temp == 1:
            UNSEEN.clear()  # once is enough
            warnings.warn(
                'reverse attention trains without annealing: temp stays at '
                f'{gate.temp:g}. Use ra_mm.TempSchedule (to go on with one, load its '
                'state, too), or in OpenMMLab the hook ra_mm.TempAnnealingHook',
                stacklevel=2,
            )

    handle = gate.gamma.register_hook(check)


def temp_at(progress: float, start: float, end: float) -> float:
    """Return temp at a fraction of the annealing: 0 is its start, 1 its end."""
    return end + (start - end) * max(0.0, 1 - progress)


def first_temp(gates: Sequence[Any], start: float, end: float) -> float:
    """Return the temp to start from: that of the weights, if they are trained.

    Annealing delays G until F is trained, so it belongs to a gamma that starts
    at 0. Where any gamma is not 0, from pre-training or when a model is
    fine-tuned, temp falls from the weights' own value to ``end``, also for new gates
    beside trained ones, of which a warning tells.
    """
    if not is_trained(gates):
        return start
    temp = max(end, *(gate.temp.item() for gate in gates))
    new = [g for g in gates if g.gamma.requires_grad and not g.gamma.any()]
    if new and temp < start:
        warnings.warn(
            f'{len(new)} of {len(gates)} gates of reverse attention are new (gamma = 0) '
            f'and begin with the temp of the trained ones, {temp:g}. In a loop of your '
            'own, a ra_mm.TempSchedule for each part of the model anneals them',
            stacklevel=3,
        )
    return temp


def is_trained(gates: Iterable[Any]) -> bool:
    """Whether any gamma is not 0."""
    return any(bool(gate.gamma.any()) for gate in gates)


def check_schedule(start: float, end: float, length: int) -> None:
    """Raise ValueError if not start >= end > 0, or length < 1."""
    check_arg(number(), start=start, end=end)
    if not start >= end > 0:
        raise ValueError(
            f'start={start}, end={end}: expected start >= end > 0, since temp '
            'falls from start to end'
        )
    check_arg(integer(1), length=length)
