"""TempSchedule, in a training loop without OpenMMLab."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import ra_mm
from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.layers import MGRN, TempSchedule
from ra_mm.layers.temp_schedule import find_gates

C = 11  # no other model in this process has such gates


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, x):
        return self.conv(x) + x


def converted():
    return ra_mm.convert(nn.Sequential(Block(), Block()), blocks=Block)


def train(model, schedule=None, steps=1):
    """Train by SGD, and return the warnings."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(2, C, 4, 4)).square().sum().backward()
            optimizer.step()
            if schedule:
                schedule.step()
    return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


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
def test_trained_weights(temp, first, recwarn):
    gates = model(gamma=0.3, temp=temp)
    assert temps(gates, TempSchedule(gates, length=2), 3) == pytest.approx(
        [first, (first + 1) / 2, 1]
    )
    within = [w for w in recwarn if 'from within an annealing' in str(w.message)]
    assert len(within) == (temp == 12)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(length=0), 'length=0'),
        (dict(length=2.5), 'length=2.5'),
        (dict(start=0.5), 'start=0.5'),
        (dict(start=math.inf), 'start=inf'),
        (dict(end=0.0), 'end=0.0'),
        (dict(model=nn.Linear(1, 1)), 'no reverse attention'),
        (dict(model=MGRN(2).to('meta')), 'meta device'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TempSchedule(**{**dict(model=model(), length=4), **kwargs})


STATE = dict(steps=3, length=4, start=30.0, end=1.0)


@pytest.mark.parametrize(
    'wrong', [dict(last_epoch=3), dict(steps=-1), dict(start=0.5), dict(length=0)]
)
def test_wrong_state(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TempSchedule(model(), length=4).load_state_dict({**STATE, **wrong})


def test_a_saved_schedule_keeps_its_length():
    schedule = TempSchedule(model(), length=9)
    schedule.load_state_dict(STATE)
    assert schedule.temp == 8.25 and schedule.state_dict() == STATE


def traced(model):
    return torch.fx.symbolic_trace(model)


def exported(model):
    return torch.export.export(model, (torch.randn(2, C, 4, 4),)).module()


def quantized(model):
    from torch.ao.quantization import get_default_qat_qconfig_mapping, quantize_fx

    mapping = get_default_qat_qconfig_mapping()
    return quantize_fx.prepare_qat_fx(model, mapping, torch.randn(2, C, 4, 4))


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('kind', [traced, exported, quantized])
def test_traced_models(kind):
    """Casts, copies and pickles included."""
    if kind is exported and not COMPILES_FUNCTIONS:
        pytest.skip('torch.export before PyTorch 2.5')
    model = kind(converted())
    assert not any(isinstance(m, MGRN) for m in model.modules())
    copies = [model, copy.deepcopy(model).to(torch.bfloat16).float()]
    if kind is traced:  # PyTorch pickles no others
        copies.append(pickle.loads(pickle.dumps(model)))
    schedule = TempSchedule(copies, length=2)
    schedule.step()
    for each in copies:
        found = [b.item() for n, b in each.named_buffers() if n.endswith('gate.temp')]
        assert found == [15.5, 15.5]
    if kind is not quantized:  # whose observers clip the change
        x = torch.randn(2, C, 4, 4)
        nn.init.ones_(copies[0].get_parameter('0.attention.gate.gamma'))
        y = copies[0](x)
        schedule.step()
        assert not torch.allclose(y, copies[0](x))


@pytest.mark.parametrize(
    'length, every, accumulated, late',
    [(2, 9, 1, 1), (2, 9, 9, 1), (140, 7, 7, 0), (30, 6, 1, 1), (30, 1, 5, 1)],
)
def test_a_schedule_that_is_out_of_step(recwarn, length, every, accumulated, late):
    """Never stepped, once an epoch, or too often; gradients may be accumulated."""
    own = converted()
    schedule = TempSchedule(own, length)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
    for i in range(2 * length):
        own(torch.randn(2, C, 4, 4)).sum().backward()
        if i % accumulated == accumulated - 1:
            optimizer.step()
        if i % every == every - 1:
            schedule.step()
    assert len([w for w in recwarn if 'step()' in str(w.message)]) == late


def test_gates_that_the_optimizer_lacks(recwarn):
    for optimized in (False, True):
        own = converted()
        schedule = TempSchedule(own, length=4)
        if optimized:
            nn.init.ones_(own[1].attention.gate.gamma)
        for _ in range(11):
            schedule.step()
        assert len([w for w in recwarn if 'optimizer' in str(w.message)]) == 1


def test_a_converted_model_without_schedule_says_so_once():
    for make in (nn.Sequential, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        model = make(converted())
        (message,) = train(model, steps=3)
        assert 'TempSchedule' in message
    assert not train(model)
    model = converted()
    assert not train(model, TempSchedule(model, length=4), steps=3)
    model = converted()
    caught = train(model, TempSchedule(model[0], length=4))
    assert any('without annealing' in message for message in caught)
    for temp in (
        1.0,
        15.5,
    ):  # fine-tuned with trained gates, or from within an annealing
        model = converted()
        for block in model:
            nn.init.ones_(block.attention.gate.gamma)
            block.attention.gate.temp.fill_(temp)
        assert [message.count('15.5') for message in train(model)] == [1] * (temp > 1)


@pytest.mark.parametrize('temp, steps', [(12.0, 6), (1.0, 10), (30.0, 0)])
def test_weights_that_are_loaded_later(temp, steps):
    """temp does not jump back to its start."""
    model = converted()
    schedule = TempSchedule(model, length=10)
    weights = model.state_dict()
    weights = {
        name: torch.ones_like(v) * (temp if name.endswith('temp') else 1)
        for name, v in weights.items()
    }
    model.load_state_dict(weights)
    caught = train(model, schedule, steps=2)
    assert len(caught) == (temp != 30)
    assert schedule.steps == steps + 2
    assert schedule.temp <= temp


@pytest.mark.parametrize('gamma', [0.0, 1.0])
def test_weights_without_temp(recwarn, gamma):
    """As of named_parameters()."""
    model(gamma).load_state_dict(dict(model(gamma, temp=9.0).named_parameters()))
    assert len(recwarn) == gamma


def test_new_gates_beside_trained_ones(recwarn):
    trained, new = model(gamma=1.0), model()
    schedule = TempSchedule([trained, new], length=4)
    assert schedule.temp == 1
    assert any(str(w.message).startswith('2 of 4 gates') for w in recwarn)


def test_gamma_of_a_parametrization():
    own = converted()
    for block in own:
        parametrize.register_parametrization(block.attention.gate, 'gamma', nn.Tanh())
    assert not train(own, TempSchedule(own, length=4), steps=3)


def test_weights_that_are_reset_later():
    """The next one of several trainings anneals as the first did."""
    model = converted()
    initial = copy.deepcopy(model.state_dict())
    for _ in range(2):
        schedule = TempSchedule(model, length=4)
        model.load_state_dict(initial)
        train(model, schedule, steps=2)
        assert schedule.temp == 15.5
        train(model, schedule, steps=4)


def test_a_block_that_is_replaced_later():
    model = converted()
    schedule = TempSchedule(model, length=10)
    model[1] = copy.deepcopy(model[1])
    assert train(model, schedule) == []
    kept, replaced = (gate.temp for gate in find_gates([model]))
    assert kept == replaced < 30


def test_frozen_gates():
    model = converted()
    for block in model:
        block.attention.gate.gamma.requires_grad_(False)
    (message,) = train(model, TempSchedule(model, length=4), steps=2)
    assert 'gamma' in message


def test_a_copy_of_a_traced_model_is_not_annealed():
    model = converted()
    schedule = TempSchedule(model, length=4)
    sharing = traced(model)
    assert not train(model, schedule)
    schedule = TempSchedule(model, length=4)
    copied = copy.deepcopy(sharing)
    assert train(model, schedule)
    both = TempSchedule([model, copied], length=4)
    assert 'same gates' not in str(train(model, both))


def test_an_average_that_is_not_annealed():
    model = converted()
    average = torch.optim.swa_utils.AveragedModel(model)
    (message,) = train(model, TempSchedule(model, length=4), steps=2)
    assert 'TempSchedule([' in message
    both = TempSchedule([model, average], length=4)
    assert 'same gates' not in str(train(model, both, steps=2))
    schedule = TempSchedule(model, length=4)
    assert 'same gates' not in str(train(model, schedule, steps=2))
    average = torch.optim.swa_utils.AveragedModel(model)  # during the annealing
    (message,) = train(model, schedule, steps=4)
    assert 'TempSchedule([' in message


def test_a_trained_teacher_in_the_same_module():
    """The student still begins at the start of the annealing."""
    teacher, student = model(1.0).requires_grad_(False), model()
    schedule = TempSchedule(nn.ModuleList([teacher, student]), length=4)
    assert temps(student, schedule, 2) == [30, 22.75]
    assert all(gate.temp == 1 for gate in teacher)


def test_epochs_for_steps(recwarn):
    schedule = TempSchedule(model(1.0), length=2)
    for _ in range(300):
        schedule.step()
    assert len([w for w in recwarn if 'not of epochs' in str(w.message)]) == 1


def test_a_schedule_for_each_epoch():
    gates = model()
    TempSchedule(gates, length=4)
    with pytest.warns(UserWarning, match='make it once'):
        TempSchedule(gates, length=4)
