"""Imports point from tools to the method, never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / 'ra_mm'
FLOORS = [
    {'ops', 'layers', 'validation', 'errors', 'fileio', 'compat', 'restricted_pickle'},
    {'registry', 'conversion', 'safe_globals'},
    {'engine', 'hooks', 'backbones', 'heads', 'datasets'},
    {'cli', 'checks', 'analysis', 'export', 'models'} | {'mmcv_ops', 'cfg_options'},
    {'reproduce', 'check_env'},
]
FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}
# The only imports between neighbours on floors 1 to 3: plain ingredients.
INGREDIENTS = {
    ('conversion', 'registry'),  # for attentions that are given as a config
    ('registry', 'safe_globals'),
    ('backbones', 'engine'),
    ('checks', 'cli'),
    ('analysis', 'cli'),
    ('analysis', 'models'),
    ('cli', 'models'),
    ('cli', 'cfg_options'),
}


def imports(path):
    """The ra_mm modules that a file imports, as their first name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level != 1:
            module = ('ra_mm.' if node.level else '') + (node.module or '')
            names = [f'{module}.{a.name}'.replace('..', '.') for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition('.')
            if package == 'ra_mm' and rest:
                yield rest.split('.')[0]


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=str)
def test_no_import_upwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    if own.startswith('_'):
        return
    for other in set(imports(path)) - {own}:
        if other in FLOOR_OF:  # not a name such as __version__
            below = FLOOR_OF[other] < FLOOR_OF[own] or FLOOR_OF[own] == 0
            assert below or (own, other) in INGREDIENTS, f'{own} imports {other}'


WITHOUT_OPENMMLAB = """
import sys
for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'argparse'):
    sys.modules[name] = None  # importing it raises ImportError
import torch
import ra_mm
from ra_mm.conversion import add_chain
from ra_mm.layers import NAMES, MGRN, ResidualSum, ReverseAttention, force_path

x = torch.randn(2, 16, 4, 4, requires_grad=True)
F = torch.randn(2, 16, 4, 4)
layers = [ResidualSum()]
layers += [kind(16) for name, kind in NAMES.items() if name != 'on_residual']
layers += [ReverseAttention(16, aggregation='l1', normalization='bn')]
for layer in layers:
    for path in ('reference', 'given', 'fused'):
        with force_path(path):
            y = layer.tail(F, torch.nn.BatchNorm2d(16), x, torch.nn.ReLU())
        (grad,) = torch.autograd.grad(y.square().sum(), [x])
        assert y.shape == x.shape and grad.isfinite().all() and grad.any()
assert MGRN(16)(F).shape == (2, 16)

class Block(torch.nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x)) + x

add_chain(Block, branch='0 1')
model = Block(torch.nn.Conv2d(16, 16, 1), torch.nn.BatchNorm2d(16))
schedule = ra_mm.TempSchedule(ra_mm.convert(model), length=2)
model(x).sum().backward()
schedule.step()
assert model.attention.gate.gamma.grad.any() and model.attention.gate.temp == 15.5
for name in ('torchvision', 'timm'):
    assert name not in sys.modules
"""


def test_layers_and_conversion_need_torch_alone():
    """A forward and a backward pass of every layer and of a converted model."""
    # PyTorch itself may want argparse.
    code = WITHOUT_OPENMMLAB.replace('import sys\n', 'import sys\nimport torch\n', 1)
    subprocess.run([sys.executable, '-c', code], check=True, cwd=PACKAGE.parent)
