"""The example for torchvision runs without OpenMMLab."""

import subprocess
import sys
from pathlib import Path

import cv2
import torch

REPO = Path(__file__).parents[2]

WITHOUT_OPENMMLAB = """
import runpy, sys
for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'):
    sys.modules[name] = None  # importing it raises ImportError
runpy.run_path('examples/torchvision_shapes.py')['main'](sys.argv[1:])
"""


def test_torchvision_shapes(tmp_path):
    subprocess.run(
        [sys.executable, '-c', WITHOUT_OPENMMLAB]
        + ['--epochs', '1', '--images', '8', '--out', tmp_path],
        check=True,
        cwd=REPO,
    )
    weights = torch.load(tmp_path / 'model.pth')
    gammas = [v for k, v in weights.items() if k.endswith('.attention.gate.gamma')]
    assert len(gammas) == 8 and all(gamma.any() for gamma in gammas)
    assert cv2.imread(str(tmp_path / 'gates.png')) is not None
