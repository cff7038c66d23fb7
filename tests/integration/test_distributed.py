"""Training in two processes, and in bfloat16, equals one process in float32.

Under torchrun, this file runs tools/train.py with each of its arguments.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from torch import nn
from torch.distributed.nn.functional import all_reduce

from ra_mm.engine.cpu_distributed import end_processes

TRAIN = Path(__file__).parents[2] / 'tools/train.py'
IMAGES, BATCH, EPOCHS = 16, 4, 2
STEPS = IMAGES // BATCH * EPOCHS
TEMPS = [30, 22.75, 15.5, 8.25, 1, 1, 1, 1]  # annealed in one epoch

ANNEALING = dict(type='ra_mm.TempAnnealingHook', length=1)
PROBE = dict(type='Probe')
FROZEN = {'model.backbone.norm_eval': True}
ACCUMULATED = {'optim_wrapper.accumulative_counts': 2}


@HOOKS.register_module()
class Probe(Hook):
    """Gives every weight an effect, and records what the training computes."""

    priority = 'LOWEST'  # after the annealing has seen gamma = 0

    def __init__(self, autocast=False):
        self.autocast = autocast
        self.record = dict(losses=[], temps=[], grads=[])

    def before_train(self, runner):
        self.model = getattr(runner.model, 'module', runner.model)
        g = torch.Generator().manual_seed(0)
        for name, t in self.model.state_dict().items():
            if t.ndim == 1:
                scale = 1 if name.endswith('gamma') else 0.1
                t.add_(torch.randn(t.shape, generator=g), alpha=scale)
        if self.autocast:
            cast = torch.autocast('cpu', torch.bfloat16)
            self.model.forward = cast(self.model.forward)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.before_step)

    def before_step(self, *_):
        self.record['grads'].append(
            {
                name: None if p.grad is None else p.grad.clone()
                for name, p in self.model.named_parameters()
                if p.requires_grad
            }
        )

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        state = self.model.state_dict()
        self.record['losses'].append(outputs['loss'].item())
        self.record['temps'].append(
            sorted({t.item() for k, t in state.items() if k.endswith('temp')})
        )

    def after_train(self, runner):
        torch.save(self.record, f'{runner.work_dir}/{get_rank()}.pth')


@MODELS.register_module()
class SyncedBN(nn.BatchNorm2d):
    """SyncBN on a CPU, for equal shares of a batch; PyTorch's own needs a GPU."""

    def forward(self, z):

        def mean(t):
            return all_reduce(t.mean(dim=(0, 2, 3))) / get_world_size()

        z = z - mean(z)[:, None, None]
        z = z / (mean(z.square()) + self.eps).sqrt()[:, None, None]
        return z * self.weight[:, None, None] + self.bias[:, None, None]


@pytest.fixture(scope='module')
def make(configs, tmp_path_factory):
    """Write a config whose work_dir has its name, next to it."""
    folder = tmp_path_factory.mktemp('distributed')

    def make(name, options, batch, hooks):
        cfg = Config.fromfile(configs / 'classifier.py')
        cfg.merge_from_dict(
            {
                'experiment_name': name,  # runners of the same name share their log
                'work_dir': str(folder / name),
                'custom_hooks': list(hooks),
                'randomness': dict(seed=0),
                'train_dataloader.batch_size': batch,
                'train_cfg.max_epochs': EPOCHS,
                'optim_wrapper.optimizer.lr': 0.01,
                **options,
            }
        )
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.dump(folder / f'{name}.json')
        return folder / f'{name}.json'

    return make


@pytest.fixture(scope='module')
def one(make):
    """Train here, once for each name, and return the record."""
    done = {}

    def one(name, options, batch=BATCH, hooks=(ANNEALING, PROBE)):
        if name not in done:
            config = make(f'one_{name}', options, batch, hooks)
            runpy.run_path(str(TRAIN))['main']([str(config)])
            done[name] = torch.load(config.with_suffix('') / '0.pth')
        return done[name]

    return one


@pytest.fixture(scope='module')
def two(make):
    """The records of two processes for each config, by one torchrun."""
    half, hooks = BATCH // 2, [ANNEALING, PROBE]
    runs = dict(
        frozen=(FROZEN, half, hooks),
        synced=({'model.backbone.norm_cfg': dict(type='SyncedBN')}, half, hooks),
        checkpointing=({**FROZEN, 'model.backbone.with_cp': True}, half, hooks),
        accumulated=({**FROZEN, **ACCUMULATED}, half // 2, [PROBE]),
    )
    configs = [make(f'two_{name}', *run) for name, run in runs.items()]
    flags = '--nproc_per_node=2 --master_port=0 --rdzv_backend=c10d'
    flags += ' --rdzv_endpoint=localhost:0'
    argv = '-m', 'torch.distributed.run', *flags.split(), __file__, *configs
    done = subprocess.run([sys.executable, *argv], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        name: [torch.load(config.with_suffix('') / f'{i}.pth') for i in range(2)]
        for name, config in zip(runs, configs)
    }


def difference(ours, expected):
    """The largest difference in a gradient, relative to its tensor's maximum."""
    assert len(ours['grads']) == len(expected['grads']) == STEPS
    largest = 0
    for a, b in zip(ours['grads'], expected['grads']):
        assert a.keys() == b.keys()
        for name in b:
            scale = b[name].abs().max()
            assert scale > 0, name
            error = (a[name] - b[name]).abs().max() / scale
            largest = max(largest, error.item())
    return largest


@pytest.mark.parametrize(
    'kind, reference, options',
    [
        ('frozen', 'frozen', FROZEN),
        ('synced', 'plain', {}),
        ('checkpointing', 'frozen', FROZEN),
    ],
)
def test_two_processes(kind, reference, options, one, two):
    """Two shares of a batch, with DDP and SyncBN, equal the whole batch."""
    single = one(reference, options)
    first, second = two[kind]
    assert single['temps'] == [[temp] for temp in TEMPS]
    assert first['temps'] == second['temps'] == single['temps']
    assert difference(first, second) == 0
    assert difference(first, single) < 1e-4


def test_accumulated_gradients(one, two):
    """Two iterations per step in two processes equal the whole batch."""
    single = one('annealed', FROZEN, hooks=[PROBE])
    first, second = two['accumulated']
    assert len(first['losses']) == 2 * STEPS
    assert difference(first, second) == 0
    assert difference(first, single) < 1e-4


def test_annealing_while_accumulating(one):
    """temp falls with every iteration, over the length of an epoch."""
    ours = one('accumulated', ACCUMULATED, BATCH // 2)
    assert len(ours['grads']) == STEPS
    assert ours['temps'] == [[max(30 - 29 * i / 8, 1)] for i in range(2 * STEPS)]


def test_bfloat16(one):
    """Training with autocast on a CPU."""
    expected = one('frozen', FROZEN)
    hooks = [ANNEALING, dict(PROBE, autocast=True)]
    ours = one('bfloat16', FROZEN, hooks=hooks)
    assert ours['temps'] == expected['temps']
    assert len(ours['grads']) == STEPS
    for grads in ours['grads']:
        for name, grad in grads.items():
            assert grad.isfinite().all(), name
    assert ours['losses'] == pytest.approx(expected['losses'], rel=0.05)
    a, b = (
        nn.utils.parameters_to_vector(record['grads'][0].values())
        for record in (ours, expected)
    )
    assert 0 < (a - b).norm() / b.norm() < 0.03


if __name__ == '__main__':
    main = runpy.run_path(str(TRAIN))['main']
    for config in sys.argv[1:]:
        main([config, '--launcher', 'pytorch'])
    end_processes()
