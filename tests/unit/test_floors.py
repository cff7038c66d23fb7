"""Imports point from tools to the method, never back."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import ra_mm

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ('ra_mm', 'tools', 'benchmarks', 'examples', 'reproduction')
    for path in (ROOT / folder).rglob('*.py')
    if path != ROOT / 'ra_mm/__init__.py'  # offers names of all floors, lazily
)

OF_PACKAGE = {'ra_mm', *(f'ra_mm.{name}' for name in (*ra_mm.__all__, '__version__'))}


def read_heights():
    """The height of each package in the table of CONTRIBUTING.md."""
    rows = re.findall(
        r'^\| \d \| (`.*?`) \|', (ROOT / 'CONTRIBUTING.md').read_text(), re.MULTILINE
    )
    return {
        name: -i for i, row in enumerate(rows) for name in re.findall('`(.*?)`', row)
    }


def package_of(module):
    """The name in the table for a module, or None for other libraries."""
    parts = module.split('.')
    if parts[0] == 'ra_mm':
        return '.'.join(parts[:2])
    return parts[0] if (ROOT / parts[0]).is_dir() else None


def imported_modules(path, root):
    """The full names of all that a file imports, be they modules or not."""
    parents = '.'.join(path.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name('.' * node.level + (node.module or ''), parents)
            yield from (f'{module}.{alias.name}' for alias in node.names)


def upward_imports(path, root):
    """The packages that a file imports although they are not below its own."""
    heights = read_heights()
    own = package_of('.'.join(path.relative_to(root).with_suffix('').parts))
    others = {package_of(module) for module in imported_modules(path, root)}
    others -= {own, None, *OF_PACKAGE}
    return sorted(other for other in others if heights[other] >= heights[own])


def test_table_names_every_package():
    modules = ('.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in FILES)
    assert {package_of(module) for module in modules} == read_heights().keys()


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_upwards(path):
    assert upward_imports(path, ROOT) == []


@pytest.mark.parametrize(
    'file, statement, package',
    [
        ('layers/se.py', 'from ra_mm import cli', 'ra_mm.cli'),
        ('layers/se.py', 'from ra_mm.registry import MODELS', 'ra_mm.registry'),
        ('layers/se.py', 'import tools.train', 'tools'),
        ('ops/paths.py', 'from ra_mm.layers import SE', 'ra_mm.layers'),
        ('ops/paths.py', 'from ..engine import runner', 'ra_mm.engine'),
        ('_torch.py', 'from . import ops', 'ra_mm.ops'),
        ('errors.py', 'from .validation import shorten', 'ra_mm.validation'),
        ('engine/runner.py', 'def f():\n    import ra_mm.hooks', 'ra_mm.hooks'),
    ],
)
def test_import_upwards_is_found(tmp_path, file, statement, package):
    copy = tmp_path / 'ra_mm' / file
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / 'ra_mm' / file, copy)
    assert upward_imports(copy, tmp_path) == []
    copy.write_text(f'{copy.read_text()}\n{statement}\n')
    assert upward_imports(copy, tmp_path) == [package]


WITHOUT_OPENMMLAB = """
import sys
for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'argparse'):
    sys.modules[name] = None  # importing it raises ImportError
import torch
import ra_mm
from ra_mm.layers import ATTENTIONS, MGRN, ResidualSum, ReverseAttention
from ra_mm.ops import force_path

x = torch.randn(2, 16, 4, 4, requires_grad=True)
F = torch.randn(2, 16, 4, 4)
layers = [ResidualSum()]
layers += [kind(16) for name, kind in ATTENTIONS.items() if name != 'on_residual']
layers += [ReverseAttention(16, aggregation='l1', normalization='bn')]
for layer in layers:
    for path in ('reference', 'fused_sum', 'fused'):
        with force_path(path):
            y = layer.tail(F, torch.nn.BatchNorm2d(16), x, torch.nn.ReLU())
        (grad,) = torch.autograd.grad(y.square().sum(), [x])
        assert y.shape == x.shape and grad.isfinite().all() and grad.any()
assert MGRN(16)(F).shape == (2, 16)

class Block(torch.nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x)) + x

model = Block(torch.nn.Conv2d(16, 16, 1), torch.nn.BatchNorm2d(16))
schedule = ra_mm.TempSchedule(ra_mm.convert(model, blocks=Block), length=2)
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
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
