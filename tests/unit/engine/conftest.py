"""A runner of epochs that take one iteration each."""

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel

from ra_mm.engine.runner import SafeRunner


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode):
        return dict(loss=self.weight.sum()) if mode == 'loss' else [inputs]


class Rising(BaseMetric):
    """A score that is always the best so far."""

    def process(self, *_):
        self.results.append(0)

    def compute_metrics(self, results):
        self.score = getattr(self, 'score', 0) + 1
        return dict(score=np.float32(self.score), loss=-self.score)


def _run(
    folder,
    epochs=3,
    by_epoch=True,
    hooks=(),
    save_best='score',
    checkpoint={},
    loop={},
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    model=None,
    inputs=None,
    **kwargs,
):
    """Train for some epochs of one iteration, or as many iterations."""
    loader = dict(
        dataset=[dict(inputs=torch.ones(1) if inputs is None else inputs)],
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
        num_workers=0,
    )
    sampler = loader['sampler'] if by_epoch else dict(type='InfiniteSampler')
    runner = SafeRunner(
        model=model or Model(),
        work_dir=str(folder),
        train_dataloader=dict(loader, sampler=sampler),
        val_dataloader=loader,
        train_cfg=dict(
            {
                'by_epoch': by_epoch,
                'val_interval': 1,
                'max_epochs' if by_epoch else 'max_iters': epochs,
            },
            **loop,
        ),
        val_cfg={},
        val_evaluator=Evaluator(Rising()),
        default_hooks=dict(
            checkpoint={
                **dict(type='CheckpointHook', interval=1, by_epoch=by_epoch),
                **dict(max_keep_ckpts=1, save_best=save_best, rule='greater'),
                **checkpoint,
            }
        ),
        optim_wrapper=optim_wrapper,
        custom_hooks=list(hooks),
        experiment_name=f'{folder.parent.name}{folder.name}',
        log_level='WARNING',
        **kwargs,
    )
    runner.train()
    return runner


@pytest.fixture
def run():
    """Call it with a folder and settings to train there; it returns the runner."""
    return _run


@pytest.fixture
def names():
    """Call it with a folder for the names of the checkpoints in it."""
    return lambda folder: {p.name for p in folder.iterdir() if '.pth' in p.name}


@pytest.fixture(params=['allow-list', 'restricted unpickler'])
def reader(request, monkeypatch):
    """Read checkpoints as with this PyTorch, and as before 2.4."""
    if request.param == 'restricted unpickler':
        monkeypatch.delattr(torch.serialization, 'add_safe_globals', raising=False)
    elif not hasattr(torch.serialization, 'add_safe_globals'):
        pytest.skip('PyTorch before 2.4 has no allow-list to add to')
