"""benchmarks/cifar10.py at a small size: results after each run, and runs that are added."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cifar10')
    noise = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        for split in ('train', 'test'):
            path = folder / split / f'class{i % 2}' / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def run(data, out, *options, status=0):
    options = ('--epochs', '1', '--no-compile', '--device', 'cpu', *options)
    command = [sys.executable, '-m', 'benchmarks.cifar10', data, '--out', out, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr


def test_runs_are_added(data, tmp_path):
    out = tmp_path / 'result.json'
    run(data, out, '--seeds', '1', '--models', 'plain')
    assert '--out' in run(data, out, '--images', '4', status=1)
    run(data, out, '--seeds', '1', '--models', 'plain', 'RA')
    runs = json.loads(out.read_text())['runs']
    assert [(r['model'], r['seed']) for r in runs] == [('plain', 0), ('RA', 0)]
    assert all(0 <= r['accuracy'] <= 100 and r['seconds'] > 0 for r in runs)


def test_missing_data(tmp_path):
    assert str(tmp_path) in run(tmp_path, tmp_path / 'result.json', status=1)
