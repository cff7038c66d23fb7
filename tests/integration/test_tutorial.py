"""The tutorial runs, made small, and has no outputs in the repository.

Its cells are executed here, as the code of other pages is, which needs no kernel in a
process of its own. `make docs` executes it in full size in Jupyter.
"""

import json
import re
from pathlib import Path

import matplotlib
import pytest
import torch

from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.layers import MGRN

TUTORIAL = Path(__file__).parents[2] / 'examples/tutorial.ipynb'
CELLS = [
    cell
    for cell in json.loads(TUTORIAL.read_text())['cells']
    if cell['cell_type'] == 'code'
]
SMALL = dict(EPOCHS=1, IMAGES=16, ITERATIONS=2)


def test_no_outputs():
    assert all(not cell['outputs'] for cell in CELLS)
    assert all(cell['execution_count'] is None for cell in CELLS)


@pytest.mark.skipif(not COMPILES_FUNCTIONS, reason='the tutorial needs PyTorch 2.5')
def test_tutorial():
    code = '\n'.join(''.join(cell['source']) for cell in CELLS)
    for name, value in SMALL.items():
        code, count = re.subn(rf'^{name} = \d+', f'{name} = {value}', code, flags=re.M)
        assert count == 1
    names = {}
    matplotlib.use('agg')
    exec(compile(code, TUTORIAL.name, 'exec'), names)
    assert names['before'].sub(names['after']).abs().max() < 1e-5
    assert names['difference'] < 1e-4  # between onnxruntime and PyTorch
    for model in (names['model'], names['runner'].model):
        gates = [m for m in model.modules() if isinstance(m, MGRN)]
        assert len(gates) == 8 and all(gate.gamma.any() for gate in gates)
        assert all(torch.equal(g.temp, torch.ones_like(g.temp)) for g in gates)
