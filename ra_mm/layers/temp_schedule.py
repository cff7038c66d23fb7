"""Temperature annealing of reverse attention (paper, Eq. 8 and Table 9)."""

from collections.abc import Iterable, Sequence

from torch import nn

from ra_mm.validation import check_arg, integer, number

from .m_grn import MGRN


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
    from their temp, see :func:`first_temp`.

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
        models = [model] if isinstance(model, nn.Module) else model
        self.gates = [
            m for each in models for m in each.modules() if isinstance(m, MGRN)
        ]
        if not self.gates:
            raise ValueError('TempSchedule: the model has no reverse attention')
        self.length = length
        self.start = first_temp(self.gates, start, end)
        self.end = end
        self.steps = 0
        self._apply()

    @property
    def temp(self) -> float:
        """The temp of the current step."""
        return temp_at(self.steps / self.length, self.start, self.end)

    def step(self) -> None:
        """Set the temp of the next step. Call it after the optimizer's step."""
        self.steps += 1
        self._apply()

    def _apply(self):
        for gate in self.gates:
            gate.temp.fill_(self.temp)  # in place: no recompilation, no device sync

    def state_dict(self) -> dict[str, float]:
        """The progress, to save with a checkpoint."""
        return dict(steps=self.steps, start=self.start)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a saved progress.

        Raises:
            ValueError: If it is not what :meth:`state_dict` returned.
        """
        if set(state) != {'steps', 'start'}:
            raise ValueError(
                f'TempSchedule: keys {sorted(state)}, expected start and steps'
            )
        self.steps, self.start = int(state['steps']), state['start']
        self._apply()


def temp_at(progress: float, start: float, end: float) -> float:
    """Return temp at a fraction of the annealing: 0 is its start, 1 its end."""
    return end + (start - end) * max(0.0, 1 - progress)


def first_temp(gates: Sequence[MGRN], start: float, end: float) -> float:
    """Return the temp to start from: that of the weights, if they are trained.

    Annealing delays G until F is trained, so it belongs to a gamma that starts
    at 0. Where any gamma is not 0, from pre-training or when a model is
    fine-tuned, temp falls from the weights' own value to ``end``.
    """
    if is_trained(gates):
        return max(end, *(gate.temp.item() for gate in gates))
    return start


def is_trained(gates: Iterable[MGRN]) -> bool:
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
