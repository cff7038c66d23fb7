"""TempSchedule, in a training loop without OpenMMLab."""

import copy

import pytest
import torch
from torch import nn

from ra_mm.layers import MGRN, TempSchedule


def model(gamma=0.0, temp=1.0):
    gates = nn.Sequential(MGRN(2), MGRN(3))
    for gate in gates:
        nn.init.constant_(gate.gamma, gamma)
        gate.temp.fill_(temp)
    return gates


def temps(gates, schedule, steps):
    """The temp that each step uses."""
    found = []
    for _ in range(steps):
        assert all(gate.temp.item() == pytest.approx(schedule.temp) for gate in gates)
        found.append(gates[0].temp.item())
        schedule.step()
    return found


def test_linear():
    gates = model()
    found = temps(gates, TempSchedule(gates, length=4), 7)
    assert found == pytest.approx([30, 22.75, 15.5, 8.25, 1, 1, 1])
    gates = model()
    found = temps(gates, TempSchedule(gates, length=2, start=8.0, end=2.0), 4)
    assert found == pytest.approx([8, 5, 2, 2])


@pytest.mark.parametrize('stop', [2, 6])
def test_resume(stop):
    """With the model's weights loaded before or after."""
    gates = model()
    schedule = TempSchedule(gates, length=5)
    expected = temps(gates, schedule, stop)
    nn.init.ones_(gates[0].gamma)  # it has learned meanwhile
    state = copy.deepcopy((gates.state_dict(), schedule.state_dict()))
    expected = temps(gates, schedule, 3)
    for weights_first in (True, False):
        gates = model()
        if weights_first:
            gates.load_state_dict(state[0])
        schedule = TempSchedule(gates, length=5)
        gates.load_state_dict(state[0])
        schedule.load_state_dict(state[1])
        assert temps(gates, schedule, 3) == pytest.approx(expected)


@pytest.mark.parametrize('temp, first', [(1.0, 1.0), (12.0, 12.0), (0.5, 1.0)])
def test_trained_weights(temp, first):
    gates = model(gamma=0.3, temp=temp)
    assert temps(gates, TempSchedule(gates, length=2), 3) == pytest.approx(
        [first, (first + 1) / 2, 1]
    )


def test_average_of_the_model():
    gates = model()
    average = torch.optim.swa_utils.AveragedModel(gates)
    schedule = TempSchedule([gates, average], length=2)
    schedule.step()
    assert [g.temp.item() for g in average.module] == [15.5, 15.5]


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(length=0), 'length=0'),
        (dict(start=0.5), 'start=0.5'),
        (dict(end=0.0), 'end=0.0'),
        (dict(model=nn.Linear(1, 1)), 'no reverse attention'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TempSchedule(**{**dict(model=model(), length=4), **kwargs})


def test_wrong_state():
    with pytest.raises(ValueError, match='last_epoch'):
        TempSchedule(model(), length=4).load_state_dict(dict(last_epoch=3))
