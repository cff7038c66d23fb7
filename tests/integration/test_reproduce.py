"""tools/reproduce.py: killed and started again, and mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ra_mm.errors import UserError
from ra_mm.reproduce.process import lock

REPO = Path(__file__).parents[2]

# The first two rows of Table 9 on 16 pictures: 10 epochs of one iteration each.
COMMAND = [
    sys.executable,
    REPO / 'tools/reproduce.py',
    'table9',
    '--rows',
    'ResNet18',
    '--scale',
    'demo',
]
FIRST, SECOND = 'ra_r18_no_annealing-seed0', 'ra_r18-seed0'


def training_group(text):
    """The process group in the lock file, and in the message of the tool."""
    return int(re.search(r'kill -- -(\d+)', text)[1])


def test_killed_and_started_again(shapes, tmp_path):
    """SIGKILL in the second of two runs, then the same command.

    The killed tool leaves a training behind, which the next command refuses to
    join; the message says how to stop it.
    """
    out = tmp_path / 'out'
    command = [*COMMAND, '--data', shapes / 'classes', '--out', out]
    second = out / 'runs' / SECOND
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (second / 'epoch_3.pth').exists() and process.poll() is None:
        os.sched_yield()
    # Training would continue and might end before the next command.
    group = training_group((out / '.lock').read_text())
    os.killpg(group, signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, output
    ledger = json.loads((out / 'ledger.json').read_text())
    first = ledger['runs'][FIRST]
    assert first['status'] == 'done' and first['metrics']['top1'] >= 0
    assert ledger['runs'][SECOND]['status'] == 'running'

    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert training_group(refused.stderr) == group
    os.killpg(group, signal.SIGKILL)
    while True:
        try:
            with lock(out):
                break
        except UserError:
            os.sched_yield()

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert FIRST not in done.stdout
    assert re.search(rf'{SECOND}: resumed from epoch_[3-9].pth', done.stdout)
    ledger = json.loads((out / 'ledger.json').read_text())
    assert ledger['runs'][FIRST] == first
    run = ledger['runs'][SECOND]
    assert run['status'] == 'done' and '--resume' in run['command']
    assert [step for step, _ in run['curves']['val/top1']] == [*range(1, 11)]
    assert [
        len(list((out / 'runs' / name).glob('20*'))) for name in (FIRST, SECOND)
    ] == [1, 2]
    html = (out / 'report.html').read_text(encoding='utf-8')
    assert 'with Temp' in html and html.endswith('</html>\n')
    rows = [(row['name'], row['paper'], row['runs']) for row in ledger['rows']]
    assert rows == [('without Temp', {}, [FIRST]), ('with Temp', {}, [SECOND])]


@pytest.fixture(scope='module')
def reproduce(tool):
    return tool('reproduce')


@pytest.fixture
def message(reproduce, capsys):
    """Call the tool with a mistake and return its message."""

    def run(*argv, status=1):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            reproduce(*argv)
        errors = capsys.readouterr().err
        assert stop.value.code == status
        assert 'Traceback' not in errors
        return re.search(r'^tools/reproduce.py: error: (.*)', errors, re.M | re.S)[1]

    return run


@pytest.mark.parametrize(
    'argv, expected',
    [
        (['table1'], 'table1: .*table10'),
        (['tabel4'], 'tabel4'),
        (['table4', '--rows', '+RB'], r"--rows '\+RB'.*Table 4, .*, \+RA"),
        (['table4', '--data', 'nowhere'], '--data .*nowhere'),
        (['table4', '--gpus', '99'], '--gpus 99'),
        (['table4', '--gpus', '2', '--launcher', 'none'], '--launcher pytorch'),
        (['report', 'nowhere'], 'nowhere'),
    ],
)
def test_mistake(message, argv, expected):
    assert re.search(expected, message(*argv), re.S)


@pytest.mark.parametrize(
    'argv',
    [
        ['table4', '--seeds', '0'],
        ['table4', '--gpus', '0'],
        ['table4', '--scale', 'half'],
        ['table4', '--cfg-options', 'train_cfg.max_epochs=2'],  # needs --data
        ['report'],
        [],
    ],
)
def test_mistake_in_the_command_line(message, argv):
    assert message(*argv, status=2)


def remove(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def rewrite(name, **parts):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))

    return change


@pytest.mark.parametrize(
    'change, expected',
    [
        (remove('annotations/val.json'), "no split 'val'"),
        (remove('annotations'), 'annotations/ .* train/<class>/'),
        (remove('images'), 'train.json: .*000000.jpg .*images/'),
        (
            rewrite('annotations/train.json', annotations=[]),
            'train.json has no annotations',
        ),
        (
            rewrite('annotations/val.json', images=[]),
            'val.json is not a COCO annotation file',
        ),
        (
            rewrite('annotations/val.json', categories=[{'name': 'cat'}]),
            'classes: circle, .*cat',
        ),
    ],
)
def test_mistake_in_coco_data(message, shapes, tmp_path, change, expected):
    data = shutil.copytree(shapes, tmp_path / 'data')
    change(data)
    assert re.search(
        expected,
        message('table4', '--data', data, '--rows', 'Faster R-CNN', '--scale', 'demo'),
    )


@pytest.mark.parametrize(
    'change, expected',
    [
        (remove('val'), "no split 'val'"),
        (remove('val/star'), 'classes: .*star'),
        (
            remove(
                'train/star/0000.jpg',
                'train/star/0001.jpg',
                'train/star/0002.jpg',
                'train/star/0003.jpg',
            ),
            'star has no images',
        ),
        (remove('val/star', 'val/circle', 'val/square'), 'val has 1 class folder'),
    ],
)
def test_mistake_in_class_folders(message, shapes, tmp_path, change, expected):
    data = shutil.copytree(shapes / 'classes', tmp_path / 'data')
    change(data)
    assert re.search(expected, message('table9', '--data', data, '--scale', 'demo'))


def test_rows_that_the_data_is_not_for(message, shapes, tmp_path):
    demo = ['--scale', 'demo', '--data']
    assert re.search('--data .*not UperNet', message('table5', *demo, shapes))
    assert 'boxes, for Tables 4 and 5' in message('table2', *demo, shapes)
    for table in ('table4', 'beyond_coco'):
        assert 'class folders, for Tables 2' in message(
            table, *demo, shapes / 'classes'
        )
    data = shutil.copytree(shapes, tmp_path / 'data')
    path = data / 'annotations/val.json'
    coco = json.loads(path.read_text())
    for annotation in coco['annotations']:
        del annotation['segmentation']
    path.write_text(json.dumps(coco))
    assert re.search(
        'Mask R-CNN .*--rows "Faster R-CNN"', message('table4', *demo, data)
    )


def test_ledgers_of_others(message, tmp_path):
    path = tmp_path / 'ledger.json'
    argv = ['table2', '--dry-run', '--out', tmp_path]
    for text, expected in (
        ('{"version": 2}', 'version 2'),
        ('{"ver', 'ledger.json'),
        ('[]', 'ledger.json'),
        ('{"version": 1, "scale": "demo", "data": null}', '--scale demo, not full'),
        ('{"version": 1, "scale": "full", "data": "/d"}', '--data /d, not None'),
    ):
        path.write_text(text)
        assert expected in message(*argv)
        assert path.read_text() == text


def test_ledger_of_changed_configs(message, shapes, tmp_path):
    path = tmp_path / 'ledger.json'
    data = shapes / 'classes'
    path.write_text(
        json.dumps(
            dict(version=1, scale='demo', data=str(data), options={'a.b': [1, 2]})
        )
    )
    argv = 'beyond_imagenet', '--scale', 'demo', '--data', data, '--out', tmp_path
    for options in ([], ['--cfg-options', 'a.b=(1,3)']):
        assert '--cfg-options' in message(*argv, '--dry-run', *options)


def test_folder_in_use(message, tmp_path):
    with lock(tmp_path):
        assert f'process {os.getpid()}' in message(
            'table2', '--scale', 'demo', '--out', tmp_path
        )
    assert [p.name for p in tmp_path.iterdir()] == ['.lock']


def test_dry_run_writes_nothing(reproduce, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reproduce('table4', '--dry-run', '--gpus', 8)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0].startswith(
        'torchrun --standalone --nproc_per_node=8 '
        f'{REPO}/tools/train.py {REPO}/configs/imagenet'
        '/r50.py --work-dir work_dirs/'
    )
    reproduce('table9', '--dry-run', '--scale', 'demo', '--data', shapes / 'classes')
    assert 'config.py is written when' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
