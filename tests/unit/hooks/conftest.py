"""A tiny RA model, trained by mmengine's Runner."""

import itertools

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from ra_mm.layers import ReverseAttention

IMAGES, BATCH = 12, 4  # 3 iterations an epoch
RUNS = itertools.count()  # each has a name of its own


class RAModel(BaseModel):
    def __init__(self, ra=True):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.ra = ReverseAttention(4) if ra else torch.nn.Identity()

    def forward(self, inputs, mode):
        F = self.conv(inputs)
        y = self.ra(F, F) if isinstance(self.ra, ReverseAttention) else F
        return dict(loss=y.square().mean()) if mode == 'loss' else [y]


class Record(Hook):
    """The temp that each iteration really used, and the one in the log."""

    priority = 'LOWEST'

    def __init__(self, stop_at=None):
        self.temps, self.averaged, self.logged = {}, {}, {}
        self.stop_at = stop_at

    def after_train_iter(self, runner, batch_idx, **kwargs):
        i = runner.iter
        self.temps[i] = runner.model.ra.gate.temp.item()
        scalars = runner.message_hub.log_scalars
        if 'train/temp' in scalars:
            self.logged[i] = scalars['train/temp'].current()
        for hook in runner.hooks:
            if hasattr(hook, 'ema_model'):
                self.averaged[i] = hook.ema_model.module.ra.gate.temp.item()
        if i + 1 == self.stop_at:
            raise KeyboardInterrupt


def _run(
    tmp_path,
    hook,
    epochs=4,
    by_epoch=True,
    model=None,
    stop_at=None,
    record=None,
    batch=BATCH,
    wrapper=None,
    **kwargs,
):
    sampler = DefaultSampler if by_epoch else InfiniteSampler
    length = dict(max_epochs=epochs) if by_epoch else dict(max_iters=3 * epochs)
    record = record or Record(stop_at)
    runner = Runner(
        model=model or RAModel(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=batch,
            collate_fn=dict(type='default_collate'),
            num_workers=0,
            sampler=dict(type=sampler, shuffle=True),
            dataset=[dict(inputs=torch.ones(3, 4, 4))] * IMAGES,
        ),
        train_cfg=dict(length, by_epoch=by_epoch),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01), **(wrapper or {})),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch)
        ),
        custom_hooks=[hook, record] + kwargs.pop('hooks', []),
        experiment_name=f'{tmp_path.name}{next(RUNS)}',
        log_level='WARNING',
        **kwargs,
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        pass
    return record, runner


@pytest.fixture
def make_model():
    """The class of the model; its attention, or Identity, is ``ra``."""
    return RAModel


@pytest.fixture
def run(tmp_path):
    """Train the model with a hook for 4 epochs of 3 iterations in tmp_path.

    Returns the temp of every iteration, as a Record, and the runner.
    """
    return lambda *args, **kwargs: _run(tmp_path, *args, **kwargs)
