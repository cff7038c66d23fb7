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
FROZEN = {'model.backbone.norm_eval': True}
ACCUMULATED = {'optim_wrapper.accumulative_counts': 2}


@HOOKS.register_module()
class Probe(Hook):
    """Gives every weight an effect, and records what the training computes."""

    priority = 'LOWEST'  # after the annealing has seen gamma = 0

    def __init__(self, autocast=False):
        self.autocast = autocast
        self.record = dict(losses=[], temps=[], grads=[], attentions=[], validated=[])

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

    def attentions(self):
        return {
            name: t.clone()
            for name, t in self.model.state_dict().items()
            if '.attention.' in name
        }

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        state = self.attentions()
        self.record['losses'].append(outputs['loss'].item())
        self.record['attentions'].append(state)
        self.record['temps'].append(
            sorted({t.item() for k, t in state.items() if k.endswith('temp')})
        )

    def before_val_epoch(self, runner):
        self.record['validated'].append(self.attentions())

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

    def make(name, options, batch, hooks, val=False):
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
        if not val:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.dump(folder / f'{name}.json')
        return folder / f'{name}.json'

    return make


@pytest.fixture(scope='module')
def one(make):
    """Train here, once for each name, and return the record and the folder."""
    done = {}

    def one(
        name, options, batch=BATCH, hooks=(ANNEALING, dict(type='Probe')), val=False
    ):
        if name not in done:
            config = make(f'one_{name}', options, batch, hooks, val)
            runpy.run_path(str(TRAIN))['main']([str(config)])
            folder = config.with_suffix('')
            done[name] = torch.load(folder / '0.pth'), folder
        return done[name]

    return one


@pytest.fixture(scope='module')
def two(make):
    """The records of two processes for each config, by one torchrun."""
    probe, half = dict(type='Probe'), BATCH // 2
    runs = dict(
        frozen=(FROZEN, half, [ANNEALING, probe]),
        synced=(
            {'model.backbone.norm_cfg': dict(type='SyncedBN')},
            half,
            [ANNEALING, probe],
        ),
        checkpointing=(
            {**FROZEN, 'model.backbone.with_cp': True},
            half,
            [ANNEALING, probe],
        ),
        accumulated=({**FROZEN, **ACCUMULATED}, half // 2, [probe]),
    )
    configs = [make(f'two_{name}', *run) for name, run in runs.items()]
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nproc_per_node=2',
            '--master_port=0',
            '--rdzv_backend=c10d',
            '--rdzv_endpoint=localhost:0',
            __file__,
            *configs,
        ],
        text=True,
        capture_output=True,
    )
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
    single, _ = one(reference, options)
    first, second = two[kind]
    assert single['temps'] == [[temp] for temp in TEMPS]
    assert first['temps'] == second['temps'] == single['temps']
    assert difference(first, second) == 0
    assert difference(first, single) < 1e-4


def test_accumulated_gradients(one, two):
    """Two iterations per step in two processes equal the whole batch."""
    single, _ = one('annealed', FROZEN, hooks=[dict(type='Probe')])
    first, second = two['accumulated']
    assert len(first['losses']) == 2 * STEPS
    assert difference(first, second) == 0
    assert difference(first, single) < 1e-4


def test_annealing_while_accumulating(one):
    """temp falls with every iteration, over the length of an epoch."""
    ours, _ = one('accumulated', ACCUMULATED, BATCH // 2)
    assert len(ours['grads']) == STEPS
    assert ours['temps'] == [[max(30 - 29 * i / 8, 1)] for i in range(2 * STEPS)]


def test_averaged_weights(one):
    """With an EMAHook, validation and checkpoints use the average, and temp."""
    ours, folder = one(
        'averaged',
        {'optim_wrapper.optimizer.lr': 0.1},
        hooks=[ANNEALING, dict(type='EMAHook', momentum=0.25), dict(type='Probe')],
        val=True,
    )
    average = ours['attentions'][0]
    for i, state in enumerate(ours['attentions']):
        for name, t in state.items():
            share = 1 if name.endswith('temp') else 0.25
            average[name] = average[name].lerp(t, share)
        epoch, rest = divmod(i + 1, IMAGES // BATCH)
        if rest == 0:
            torch.testing.assert_close(ours['validated'][epoch - 1], average)
            saved = torch.load(folder / f'epoch_{epoch}.pth', weights_only=False)
            torch.testing.assert_close(
                {name: saved['state_dict'][name] for name in average}, average
            )
            gamma = 'backbone.layer4.0.attention.gate.gamma'
            assert (average[gamma] - state[gamma]).abs().max() > 1e-3


@pytest.mark.parametrize(
    'name, options, most',
    [
        ('frozen', FROZEN, 0.03),
        ('plain', {}, 0.15),  # norms of 4 images amplify rounding
    ],
)
def test_bfloat16(name, options, most, one):
    """Training with autocast on a CPU."""
    expected, _ = one(name, options)
    ours, _ = one(
        f'{name}_bfloat16',
        options,
        hooks=[ANNEALING, dict(type='Probe', autocast=True)],
    )
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
    assert 0 < (a - b).norm() / b.norm() < most


if __name__ == '__main__':
    main = runpy.run_path(str(TRAIN))['main']
    for config in sys.argv[1:]:
        main([config, '--launcher', 'pytorch'])
    end_processes()
