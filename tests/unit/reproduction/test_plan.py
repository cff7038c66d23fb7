"""The order of runs, their commands, and whether initial weights fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope

from ra_mm.engine.strict_load import load_strict
from ra_mm.errors import UserError
from ra_mm.models import build_model
from reproduction import paper
from reproduction.job import make_job
from reproduction.plan import Setting, make_plan, select_rows
from reproduction.user_data import read_data_folder

FULL = Setting('full', Path('out'), gpus=2, launcher='pytorch')
DEMO = Setting('demo', Path('out'))


def plan_of(*tables, seeds=1, data=None, rows=()):
    return make_plan(select_rows(tables, rows), seeds, data)


def trained_config(job, setting):
    """The config that tools/train.py trains for the job's command line."""
    if setting.scale == 'demo':
        return job.cfg
    options = job.command[job.command.index('--cfg-options') + 1 :]
    cfg = Config.fromfile(job.file)
    cfg.merge_from_dict(
        {
            key: DictAction._parse_iterable(value)
            for key, value in (option.split('=', 1) for option in options)
        }
    )
    return cfg


def shapes_of_backbone(cfg):
    init_default_scope(cfg.default_scope)
    state = MODELS.build(cfg.model.backbone).state_dict()
    return {key: value.shape for key, value in state.items()}


def test_every_row_has_a_run_and_no_run_is_repeated():
    plan = plan_of('all')
    configs = [run.config for run in plan.values()]
    assert len(configs) == len(set(configs)) == 57
    assert set(configs) == {row.config for row in paper.rows()}
    # Table 2's +RA is also Table 6's L2-Norm, and so on.
    assert sum(row.config.stem == 'ra_r18' for row in paper.rows()) == 5


def test_prerequisites_come_first_with_the_same_seed(shapes):
    plan = plan_of('table4', 'table5', seeds=2)
    ids = list(plan)
    assert len(ids) == 2 * (4 + 12)
    for run in plan.values():
        if run.needs:
            assert run.needs.seed == run.seed
            assert ids.index(run.needs.id) < ids.index(run.id)
    own = plan_of('table4', data=read_data_folder(shapes))
    assert len(own) == 8 and not any(run.needs for run in own.values())


def test_rows_are_selected_by_text():
    rows = select_rows(['table4'], ['faster r-cnn'])
    assert [row.name for row in rows] == ['Baseline', '+SE', '+CBAM', '+RA']
    assert len(select_rows(['table4', 'table5'], ['+RA', '+SE'])) == 8
    assert [row.name for row in select_rows(['finetune'], ['*, +RA'])] == ['+RA']
    with pytest.raises(UserError, match='table11'):
        select_rows(['table11'])
    with pytest.raises(UserError, match=r"--rows 'RB'(.|\n)*Table 4, .*, \+RA"):
        select_rows(['table4'], ['+RA', 'RB'])


def test_command_of_an_imagenet_run():
    plan = plan_of('table4')
    assert ' '.join(make_job(plan['ra_r50-seed0'], FULL).command[1:]) == (
        '--standalone --nproc_per_node=2 tools/train.py '
        'configs/imagenet/ra_r50.py --work-dir out/runs/ra_r50-seed0 '
        '--auto-scale-lr --launcher pytorch --cfg-options randomness.seed=0 '
        'default_hooks.gates.type=ra_mm.GateLogHook'
    )


def test_command_for_slurm():
    plan = plan_of('table4')
    setting = replace(FULL, gpus=16, nodes=2, launcher='slurm')
    job = make_job(plan['faster_rcnn_r50-seed0'], setting)
    assert ' '.join(job.command) == (
        'srun --gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=2 '
        '--kill-on-bad-exit=1 python -u tools/train.py '
        'configs/faster_rcnn_r50.py --work-dir out/runs/faster_rcnn_r50-seed0 '
        '--auto-scale-lr --launcher slurm --cfg-options randomness.seed=0 '
        'model.backbone.init_cfg.checkpoint=out/runs/r50-seed0/epoch_100.pth '
        'model.backbone.init_cfg.prefix=backbone.'
    )
    assert job.scaling.startswith('lr 0.02 -> 0.04 ')
    # The configs take the 256 images of a step on 2 GPUs.
    assert make_job(plan['r50-seed0'], FULL).scaling is None


@pytest.mark.parametrize('setting', [FULL, DEMO], ids=['full', 'demo'])
@pytest.mark.parametrize(
    'run', [run for run in plan_of('all').values() if run.needs], ids=lambda run: run.id
)
def test_imagenet_weights_fit(run, setting, monkeypatch):
    """Names and shapes of both backbones agree, and the path is right."""
    # Only the shapes matter; drawing random weights would take most of the time.
    monkeypatch.setattr(torch.nn.init, 'kaiming_uniform_', lambda weight, **_: weight)
    job, start = make_job(run, setting), make_job(run.needs, setting)
    cfg = trained_config(job, setting)
    assert shapes_of_backbone(start.cfg) == shapes_of_backbone(cfg)
    init = cfg.model.backbone.init_cfg
    assert init.type == 'Pretrained'
    assert init.checkpoint == str(start.checkpoint)
    assert cfg.model.get('pretrained') is None
    # The backbones of mmdet and mmseg need the prefix of the weights.
    is_ours = cfg.model.backbone.type.startswith('ra_mm.')
    assert init.get('prefix') == (None if is_ours else 'backbone.')


@pytest.mark.parametrize('run', plan_of('all').values(), ids=lambda r: r.id)
def test_demo_keeps_what_the_row_is_about(run):
    full, demo = Config.fromfile(run.config), make_job(run, DEMO).cfg
    for key in ('type', 'depth', 'attention'):
        expected = full.model.backbone.get(key)
        if expected == 'ResNetV1c':
            expected = 'ResNet'  # the ImageNet configs have the plain stem
        assert demo.model.backbone.get(key) == expected
    assert demo.model.type == full.model.type
    types = [
        [hook.type for hook in cfg.get('custom_hooks', [])] for cfg in (full, demo)
    ]
    assert types[0] == types[1]
    assert demo.auto_scale_lr.base_batch_size == (demo.train_dataloader.batch_size)
    loops = full.train_cfg, demo.train_cfg
    if full.default_scope == 'mmpretrain':
        assert loops[0].max_epochs == 10 * loops[1].max_epochs
        if types[0]:  # 10 of 100 epochs are 1 of 10
            assert demo.custom_hooks[0].length == 1
    if full.default_scope == 'mmseg' and types[0]:
        assert (
            demo.custom_hooks[0].length / loops[1].max_iters
            == full.custom_hooks[0].length / loops[0].max_iters
        )


def test_no_attention_is_frozen_untrained(shapes):
    """On the user's data, training starts from torchvision's weights."""
    setting = replace(FULL, data=read_data_folder(shapes))
    for run in plan_of('table4', data=setting.data).values():
        backbone = make_job(run, setting).cfg.model.backbone
        assert backbone.frozen_stages == 0
        assert backbone.init_cfg.checkpoint == 'torchvision://resnet50'


def test_rows_beyond_the_paper_are_kept_apart():
    rows = select_rows(['beyond_imagenet', 'beyond_coco'])
    tables = 10 * ['beyond_imagenet'] + 10 * ['beyond_coco']
    assert [row.table for row in rows] == tables
    assert not any(row.paper or row.start for row in rows)
    assert not any(row.is_beyond for row in select_rows(['all']))
    # The plain model and the paper's attentions are trained once for both.
    assert len(plan_of('table2', 'beyond_imagenet', rows=['ResNet18'])) == 4 + 6


def test_all_rows_of_a_seed_come_before_the_next_seed():
    plan = plan_of('beyond_coco', seeds=3)
    assert [run.seed for run in plan.values()] == 10 * [0] + 10 * [1] + 10 * [2]


def test_options_change_every_config(shapes):
    data = read_data_folder(shapes / 'classes')
    setting = replace(DEMO, data=data, options={'train_cfg.max_epochs': 3})
    for run in plan_of('beyond_imagenet', data=data).values():
        job = make_job(run, setting)
        assert (
            job.cfg.train_cfg.max_epochs == 3 and job.checkpoint.name == 'epoch_3.pth'
        )


def test_same_initial_weights_for_every_attention(shapes, tmp_path):
    """Runs with the same seed share all weights but those of the attention."""
    setting = Setting('demo', tmp_path, read_data_folder(shapes / 'classes'))
    states = {}
    for run in plan_of('beyond_imagenet', seeds=2, data=setting.data).values():
        job = make_job(run, setting)
        assert job.cfg.load_from == str(job.initial)
        job.write_files()
        model = build_model(job.cfg)
        load_strict(model, torch.load(job.initial)['state_dict'], scope='backbone')
        states[run.config.stem, run.seed] = model.state_dict()
    plain = states['r18', 0]
    for (_, seed), state in states.items():
        assert plain.keys() <= state.keys()
        equal = [torch.equal(plain[key], state[key]) for key in plain]
        assert all(equal) == (seed == 0)
