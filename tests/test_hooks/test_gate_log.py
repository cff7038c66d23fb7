"""GateLogHook: the logged figures are those of the G that were used."""
import pytest
import torch
from mmengine.hooks import Hook
from test_temp_annealing import Model, run

from ra_mm.hooks import GateLogHook


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
            tuple(scalars[f'train/G_ra_{name}'].current()
                  for name in ('mean', 'std')) if
            'train/G_ra_mean' in scalars else None)


def test_gate_log(tmp_path):
    model, expect = Model(), Expect()
    model.ra.gamma.data = torch.tensor([1., -0.5, 0.2, 0.])
    run(tmp_path, GateLogHook(interval=2), model=model, hooks=[expect])
    assert expect.logged[0] is None
    for i in range(1, 12, 2):
        assert expect.logged[i] == pytest.approx(expect.expected[i])
        assert expect.logged[i - 1] != pytest.approx(expect.expected[i - 1])


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match='interval=0'):
        GateLogHook(interval=0)
    with pytest.raises(ValueError, match='no ReverseAttention layer'):
        run(tmp_path, GateLogHook(), model=Model(ra=False))
