"""Short runs of tools/train.py and tools/test.py."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest

ROOT = Path(__file__).parents[2]
EPOCHS, ITERS = 3, 8  # 16 images, 2 a step
ANNEALING = 16  # iterations
OPTIONS = [
    '--cfg-options',
    'train_dataloader.batch_size=2',
    f'train_cfg.max_epochs={EPOCHS}',
    'train_cfg.val_interval=1',
    'default_hooks.logger.interval=1',
    'custom_hooks.0.length=2',
]


def run(*args, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def trained(configs, tmp_path_factory):
    """A finished run of tools/train.py, started in another folder."""
    cwd = tmp_path_factory.mktemp('run')
    run(ROOT / 'tools/train.py', configs / 'detector.py', *OPTIONS, cwd=cwd)
    return cwd / 'work_dirs/detector'


def test_train(trained, scalars):
    log = list(scalars(trained))
    assert [i for i, _, _ in log] == list(range(EPOCHS * ITERS))
    assert [temp for _, temp, _ in log] == pytest.approx(
        [max(1, 30 - 29 * i / ANNEALING) for i in range(EPOCHS * ITERS)]
    )
    losses = [loss for _, _, loss in log]
    assert sum(losses[-8:]) < sum(losses[:8])
    assert (trained / 'last_checkpoint').read_text().endswith('epoch_3.pth')


def test_scores_and_schedules_can_be_resumed(train, configs, tmp_path, capsys):
    """The checkpoint has a float32 of NumPy and functions of OneCycleLR."""
    config = tmp_path / 'segmenter.py'
    config.write_text(f"""
_base_ = '{configs}/segmenter.py'
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2, save_best='mIoU'))
param_scheduler = dict(
    _delete_=True, type='OneCycleLR', eta_max=0.01, total_steps=4,
    by_epoch=False)
train_dataloader = dict(dataset=dict(metainfo=dict(source=dict(a=1))))
""")
    train(config)
    train(config, '--resume', tmp_path / 'work/iter_2.pth')
    assert (tmp_path / 'work/iter_4.pth').exists()
    text = ''.join(capsys.readouterr())
    assert 'not safely load' not in text and 'its schedule' not in text
    # The best checkpoint was saved after its validation.
    validated = [
        entry['step']
        for path in sorted((tmp_path / 'work').glob('*/vis_data/scalars.json'))
        for entry in map(json.loads, path.read_text().splitlines())
        if 'mIoU' in entry
    ]
    assert validated == [2, 4, 4]


def test_same_figures_as_mmdets_own_tool(trained, configs, tmp_path):
    """The metrics and predictions are equal, and the number of pictures.

    The checkpoint is from the middle of the annealing. Its metrics equal those
    of the validation at that time.
    """
    own = Path(mmdet.__file__).parent / '.mim/tools/test.py'
    results = []
    for i, tool in enumerate([ROOT / 'tools/test.py', own]):
        work_dir = tmp_path / str(i)
        argv = [tool, configs / 'detector.py', trained / 'epoch_1.pth', *OPTIONS]
        argv += ['--work-dir', work_dir, '--out', work_dir / 'out.pkl']
        run(*argv, '--show-dir', 'pictures', cwd=tmp_path)
        (path,) = work_dir.glob('*/*.json')
        metrics = json.loads(path.read_text())
        predictions = pickle.loads((work_dir / 'out.pkl').read_bytes())
        assert len(predictions) == 8
        assert len(list(work_dir.glob('*/pictures/*'))) == 8
        results.append(
            (
                {k: v for k, v in metrics.items() if 'mAP' in k},
                [p['pred_instances']['scores'].tolist() for p in predictions],
            )
        )
    assert results[0] == results[1]
    (log,) = trained.glob('*/vis_data/scalars.json')
    validated = next(
        json.loads(line) for line in log.read_text().splitlines() if 'mAP' in line
    )
    for name, value in results[0][0].items():
        assert validated[name] == value
    assert any(sum(scores, []) for scores in [results[0][1]])
