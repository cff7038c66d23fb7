"""Variants of a plain network, and the trained weights that they start from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from ra_mm.engine.strict_load import load_strict
from ra_mm.errors import UserError
from ra_mm.layers import ResidualSum
from ra_mm.models import build_model
from reproduction.finetune import ANNEALED, ATTENTION_OF, load_trained
from reproduction.job import make_job, write_initial_weights
from reproduction.ledger import Ledger
from reproduction.plan import Setting, make_plan, select_rows
from reproduction.user_data import read_data_folder


@pytest.fixture(params=['finetune', 'finetune_detection'])
def jobs(request, shapes):
    """The jobs of a table by variant, trained for 60 iterations."""
    data = read_data_folder(
        shapes if 'detection' in request.param else shapes / 'classes'
    )
    setting = Setting('full', Path('o'), data, options={'train_cfg.max_iters': 60})
    plan = make_plan(select_rows([request.param]), 1, data)
    return {run.variant: make_job(run, setting) for run in plan.values()}


def test_variants(jobs):
    assert jobs.keys() == ATTENTION_OF.keys()
    for variant, job in jobs.items():
        cfg = job.cfg
        hooks = [h.length for h in cfg.custom_hooks if 'Annealing' in h.type]
        assert hooks == ([6] if variant in ANNEALED else [])
        assert cfg.param_scheduler[-1].end == 60
        assert job.checkpoint.name == 'iter_60.pth'
    init_default_scope(jobs['plain'].cfg.default_scope)
    for variant in 'plain', 'simam', 'gated_residual':
        model = build_model(jobs[variant].cfg)
        kinds = {
            f'ra_mm.{type(m).__name__}'
            for m in model.modules()
            if isinstance(m, ResidualSum)
        }
        assert kinds == {ATTENTION_OF[variant]} - {None}


@pytest.mark.parametrize('variant, parts', [('head_alone', 0), ('gates_alone', 10)])
def test_frozen_backbone(jobs, variant, parts):
    cfg = jobs[variant].cfg
    model = build_model(cfg).train()
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    trained = {id(p) for g in groups if g['lr'] for p in g['params']}
    names = {n for n, p in model.named_parameters() if id(p) in trained}
    assert any('head' in name for name in names)
    inside = [name for name in names if name.startswith('backbone.')]
    assert len(inside) == parts and all('.attention.' in name for name in inside)
    assert not any(
        m.training
        for m in model.backbone.modules()
        if isinstance(m, torch.nn.BatchNorm2d)
    )


def test_initial_weights_fit(jobs, tmp_path):
    trained = build_model(jobs['plain'].cfg)
    torch.save(trained.backbone.state_dict(), tmp_path / 'w.pth')
    cfg = jobs['ra'].cfg
    write_initial_weights(cfg, tmp_path / 'initial.pth', tmp_path / 'w.pth')
    model, weights = build_model(cfg), torch.load(tmp_path / 'initial.pth')
    load_strict(model, weights['state_dict'], 'backbone')
    assert trained.backbone.conv1.conv.weight.equal(model.backbone.conv1.conv.weight)


def by_order(state):
    return {f'f.{i}.{k.split(".")[-1]}': v for i, (k, v) in enumerate(state.items())}


@pytest.mark.parametrize(
    'rename',
    [
        lambda state: state,
        by_order,
        lambda state: {f'module.encoder.{k}': v for k, v in state.items()},
        lambda state: {f'backbone.{k}': v for k, v in state.items()},
        lambda state: by_order(state) | {'fc.weight': torch.zeros(3, 9)},
    ],
)
def test_trained_weights(jobs, tmp_path, rename):
    cfg = jobs['plain'].cfg
    trained, model = build_model(cfg), build_model(cfg)
    state = trained.backbone.state_dict()
    torch.save(rename(state), tmp_path / 'w.pth')
    load_trained(model, tmp_path / 'w.pth')
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key])
    state.popitem()
    state.popitem()  # an entry that is no num_batches_tracked
    torch.save(rename(state), tmp_path / 'w.pth')
    with pytest.raises(UserError, match='--weights .*missing'):
        load_trained(model, tmp_path / 'w.pth')


def test_ledger_knows_the_weights(shapes, tmp_path):
    """By their content: data and weights may lie elsewhere."""
    (tmp_path / 'w.pth').write_bytes(b'weights')
    data = read_data_folder(shapes / 'classes')
    setting = Setting('full', tmp_path, data, weights=tmp_path / 'w.pth')
    rows, ledger = select_rows(['finetune'], ['plain']), Ledger(tmp_path)
    ledger.request(setting, rows, 2, make_plan(rows, 2, data))
    ids = ['finetune_classifier-plain-seed0', 'finetune_classifier-plain-seed1']
    assert [*ledger.runs] == ledger.rows[0].runs == ids
    data = replace(data, root=Path('/elsewhere/classes'))
    ledger.request(replace(setting, data=data), rows, 2, make_plan(rows, 2, data))
    (tmp_path / 'w.pth').write_bytes(b'others')
    with pytest.raises(UserError, match='--weights w.pth'):
        ledger.request(setting, rows, 2, make_plan(rows, 2, data))
    with pytest.raises(UserError, match='--weights .*nowhere'):
        setting = replace(setting, weights=tmp_path / 'nowhere')
        ledger.request(setting, rows, 2, make_plan(rows, 2, data))
