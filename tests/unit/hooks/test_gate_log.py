"""GateLogHook: the logged figures are those of the G that were used."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.backbones import RAResNet
from ra_mm.errors import UserError
from ra_mm.hooks import GateLogHook
from ra_mm.layers import MGRN, ReverseAttention


class Expect(Hook):
    """Computes mean and standard deviation of G independently in each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.expected, self.logged = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = runner.model
        with torch.no_grad():
            F = model.conv(data_batch['inputs'])
            u = F.norm(dim=(2, 3))
            G = 1 + model.ra.gate.gamma * u / (u.mean(1, keepdim=True) + 1e-6)
        self.expected.append((G.mean().item(), G.std().item()))

    def after_train_iter(self, runner, batch_idx, **kwargs):
        assert not runner.model.ra.gate._forward_hooks
        scalars = runner.message_hub.log_scalars
        self.logged.append(
            tuple(scalars[f'train/G_ra_{name}'].current() for name in ('mean', 'std'))
            if 'train/G_ra_mean' in scalars
            else None
        )


def test_gate_log(run, make_model):
    model, expect = make_model(), Expect()
    model.ra.gate.gamma.data = torch.tensor([1.0, -0.5, 0.2, 0.0])
    run(GateLogHook(interval=2), model=model, hooks=[expect])
    assert expect.logged[0] is None
    for i in range(1, 12, 2):
        assert expect.logged[i] == pytest.approx(expect.expected[i])
        assert expect.logged[i - 1] != pytest.approx(expect.expected[i - 1])


class Network(BaseModel):
    """The end of a block: G is computed by the fused tail, unless it is logged."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.ra = ReverseAttention(3)
        torch.nn.init.normal_(self.ra.gate.gamma)

    def forward(self, inputs, mode):
        x = torch.rand_like(inputs)
        y = self.ra.tail(x, self.norm, x, torch.nn.functional.relu)
        return dict(loss=y.square().mean())


def test_compiled(run):
    """A graph of an earlier look must not leave out a later one."""
    if not COMPILES_FUNCTIONS:
        pytest.skip('PyTorch before 2.5 does not compile a train_step with our tails')
    torch._dynamo.reset()
    seen = []

    class See(Hook):
        def after_train_iter(self, runner, **kwargs):
            if 'train/G_ra_std' in runner.message_hub.log_scalars:
                seen.append(runner.message_hub.get_scalar('train/G_ra_std').current())

    works = hasattr(torch.compiler, 'set_stance')
    fails = pytest.raises(UserError, match='compiled')
    with nullcontext() if works else fails:
        run(
            GateLogHook(interval=2),
            model=Network(),
            hooks=[See()],
            cfg=dict(compile=dict(backend='aot_eager')),
        )
    assert len(set(seen)) > 3 or not works


def test_gates_of_blocks():
    """In blocks, whose y would otherwise come from the fused tail."""
    model = RAResNet(18, stem_channels=4, base_channels=4)
    expected = {}
    for name, gate in model.named_modules():
        if isinstance(gate, MGRN):
            gate.gamma.data.normal_()
            expected.setdefault(name.split('.')[0], []).append(gate)
    runner = SimpleNamespace(
        model=model, iter=0, message_hub=MessageHub.get_instance('blocks')
    )
    x = torch.randn(2, 3, 32, 32)
    state = copy.deepcopy(model.state_dict())

    hook = GateLogHook(interval=1)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    model(x)
    hook.after_train_iter(runner, 0)

    model.load_state_dict(state)
    seen = {}
    for gates in expected.values():
        for gate in gates:
            gate.register_forward_hook(lambda gate, args, G: seen.update({gate: G}))
    model(x)
    for stage, gates in expected.items():
        G = torch.cat([seen[gate].flatten() for gate in gates])
        for name, value in (('mean', G.mean()), ('std', G.std())):
            logged = runner.message_hub.get_scalar(f'train/G_{stage}_{name}')
            assert logged.current() == pytest.approx(value.item(), rel=1e-5)


def test_mistakes(run, make_model):
    with pytest.raises(ValueError, match='interval=0'):
        GateLogHook(interval=0)
    with pytest.raises(UserError, match='GateLogHook'):
        run(GateLogHook(), model=make_model(ra=False))
