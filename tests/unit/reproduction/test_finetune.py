"""Variants of a plain network, and the trained weights that they start from."""

from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from ra_mm.engine.strict_load import load_strict
from ra_mm.errors import UserError
from ra_mm.models import build_model
from reproduction.finetune import ANNEALED, ATTENTION_OF
from reproduction.job import make_job, write_initial_weights
from reproduction.ledger import Ledger
from reproduction.plan import Setting, make_plan, select_rows
from reproduction.slurm import sbatch_command, submit
from reproduction.user_data import read_data_folder


@pytest.fixture(params=['finetune', 'finetune_detection'])
def configs(request, shapes):
    """The configs of a table by variant, for 60 iterations."""
    is_detection = request.param == 'finetune_detection'
    data = read_data_folder(shapes if is_detection else shapes / 'classes')
    setting = Setting('full', Path('o'), data, options={'train_cfg.max_iters': 60})
    plan = make_plan(select_rows([request.param]), 1, data)
    return {run.variant: make_job(run, setting).cfg for run in plan.values()}


def test_variants(configs):
    assert configs.keys() == ATTENTION_OF.keys()
    for variant, cfg in configs.items():
        attention = cfg.model.backbone.get('attention', {}).get('type')
        assert attention == ATTENTION_OF[variant]
        lengths = [h.length for h in cfg.custom_hooks if 'Annealing' in h.type]
        assert lengths == ([6] if variant in ANNEALED else [])
        assert cfg.param_scheduler[-1].end == 60


def test_blocks_of_one_stage(shapes):
    data = read_data_folder(shapes / 'classes')
    setting = Setting('full', Path('o'), data, options={'where.names': ['layer6']})
    (run,) = make_plan(select_rows(['finetune'], ['*, +RA']), 1, data).values()
    keys = build_model(make_job(run, setting).cfg).state_dict()
    assert {k.split('.')[1] for k in keys if k.endswith('gamma')} == {'layer6'}


def test_variants_are_jobs_of_their_own(shapes):
    """Although they have one config: by the job's name, its log and its run."""
    data = read_data_folder(shapes / 'classes')
    setting = Setting('full', Path('o'), data)
    (run, *_) = make_plan(select_rows(['finetune'], ['+CBAM']), 1, data).values()
    call = sbatch_command([run], None, setting, ['tool'], {})
    name = run.id.removesuffix('-seed0')
    assert name.endswith('cbam')
    assert any(word.startswith(f'--job-name={name}@') for word in call)
    assert any(word.endswith(f'{name}-seed%a.log') for word in call)
    assert call[-1].endswith(f'--run {name}-seed$SLURM_ARRAY_TASK_ID')


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(UserError, match='no sbatch'):
        submit({}, Setting('demo', tmp_path), Ledger(tmp_path), [], {}, print)


@pytest.mark.parametrize('variant, gates', [('head_alone', 0), ('gates_alone', 10)])
def test_frozen_backbone(configs, variant, gates):
    model = build_model(configs[variant]).train()
    optimizer = build_optim_wrapper(model, configs[variant].optim_wrapper).optimizer
    trained = {id(p) for g in optimizer.param_groups if g['lr'] for p in g['params']}
    names = [n for n, p in model.named_parameters() if id(p) in trained]
    inside = [name for name in names if name.startswith('backbone.')]
    assert len(names) > len(inside) == gates
    assert all('.attention.' in name for name in inside)
    assert not model.backbone.conv1.bn.training


def by_order(state):
    return {f'f.{i}.{k.split(".")[-1]}': v for i, (k, v) in enumerate(state.items())}


@pytest.mark.parametrize(
    'rename',
    [
        by_order,
        lambda state: by_order(state) | {'fc.weight': torch.zeros(3, 9)},
        lambda state: {f'module.encoder.{k}': v for k, v in state.items()},
        lambda state: {f'backbone.{k}': v for k, v in state.items()},
    ],
)
def test_trained_weights(configs, tmp_path, rename):
    source, start = tmp_path / 'w.pth', tmp_path / 'initial.pth'
    trained = build_model(configs['plain']).backbone.state_dict()
    torch.save(rename(trained), source)
    write_initial_weights(configs['ra'], start, source)
    model = build_model(configs['ra'])
    load_strict(model, torch.load(start)['state_dict'], 'backbone')
    state = model.backbone.state_dict()
    assert all(torch.equal(state[key], trained[key]) for key in trained)
    for _ in range(2):  # num_batches_tracked, and an entry that is needed
        trained.popitem()
    torch.save(rename(trained), source)
    with pytest.raises(UserError, match='--weights .*missing'):
        write_initial_weights(configs['ra'], start, source)
