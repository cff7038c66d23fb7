"""GateLogHook: the logged figures are those of the G that were used."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from test_temp_annealing import Model, run

from ra_mm.backbones import RAResNet
from ra_mm.hooks import GateLogHook
from ra_mm.layers import ReverseAttention


class Expect(Hook):
    """Mean and spread of G of each iteration, worked out anew."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.expected, self.logged = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = runner.model
        with torch.no_grad():
            F = model.conv(data_batch['inputs'])
            u = F.norm(dim=(2, 3))
            G = 1 + model.ra.gamma * u / (u.mean(1, keepdim=True) + 1e-6)
        self.expected.append((G.mean().item(), G.std().item()))

    def after_train_iter(self, runner, batch_idx, **kwargs):
        assert 'gate' not in vars(runner.model.ra)
        scalars = runner.message_hub.log_scalars
        self.logged.append(
            tuple(scalars[f'train/G_ra_{name}'].current() for name in ('mean', 'std'))
            if 'train/G_ra_mean' in scalars
            else None
        )


def test_gate_log(tmp_path):
    model, expect = Model(), Expect()
    model.ra.gamma.data = torch.tensor([1.0, -0.5, 0.2, 0.0])
    run(tmp_path, GateLogHook(interval=2), model=model, hooks=[expect])
    assert expect.logged[0] is None
    for i in range(1, 12, 2):
        assert expect.logged[i] == pytest.approx(expect.expected[i])
        assert expect.logged[i - 1] != pytest.approx(expect.expected[i - 1])


class Network(Model):
    def __init__(self):
        super().__init__()
        self.backbone = RAResNet(18, stem_channels=4, base_channels=4)
        self.ra = self.backbone.layer4[1].attention
        for m in self.modules():
            if isinstance(m, ReverseAttention):
                torch.nn.init.normal_(m.gamma)

    def forward(self, inputs, mode):
        x = torch.rand_like(inputs)
        return dict(loss=self.backbone(x)[0].square().mean())


def test_compiled(tmp_path):
    """A graph of an earlier look must not leave out a later one."""
    torch._dynamo.reset()
    seen = []

    class See(Hook):
        def after_train_iter(self, runner, **kwargs):
            if 'train/G_layer4_std' in runner.message_hub.log_scalars:
                seen.append(
                    runner.message_hub.get_scalar('train/G_layer4_std').current()
                )

    works = torch.__version__ >= '2.10'  # as seen; 2.5 does not
    fails = pytest.raises(RuntimeError, match='try a newer PyTorch')
    with nullcontext() if works else fails:
        run(
            tmp_path,
            GateLogHook(interval=2),
            model=Network(),
            hooks=[See()],
            cfg=dict(compile=dict(backend='aot_eager')),
        )
    assert len(set(seen)) > 3 or not works


def test_gates_of_blocks():
    """In a block, too, where y comes from the fused tail otherwise."""
    model = RAResNet(18, stem_channels=4, base_channels=4)
    expected = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ReverseAttention):
            layer.gamma.data.normal_()
            expected.setdefault(name.split('.')[0], []).append(layer)
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
    for layers in expected.values():
        for layer in layers:
            layer.register_forward_hook(
                lambda layer, args, y: seen.update(
                    {layer: layer.gate(args[0]).flatten()}
                )
            )
    model(x)
    for stage, layers in expected.items():
        G = torch.cat([seen[layer] for layer in layers])
        for name, value in (('mean', G.mean()), ('std', G.std())):
            logged = runner.message_hub.get_scalar(f'train/G_{stage}_{name}')
            assert logged.current() == pytest.approx(value.item(), rel=1e-5)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match='interval=0'):
        GateLogHook(interval=0)
    with pytest.raises(ValueError, match='no ReverseAttention layer'):
        run(tmp_path, GateLogHook(), model=Model(ra=False))
