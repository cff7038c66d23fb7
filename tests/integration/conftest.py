"""Models with random gates and their checkpoints."""

import pytest
import torch
from mmengine.config import Config
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ra_mm.conversion import AttentionBlock
from ra_mm.layers import ReverseAttention
from ra_mm.models import build_model


@pytest.fixture(scope='session')
def saved_models(configs, randomise, tmp_path_factory):
    """Models with random gamma and temp = 2.5, and checkpoints, by config."""
    folder, models = tmp_path_factory.mktemp('saved_models'), {}
    for name in ('classifier', 'detector', 'segmenter'):
        torch.manual_seed(0)
        model = randomise(build_model(Config.fromfile(configs / f'{name}.py')).eval())
        for layer in model.modules():
            if isinstance(layer, ReverseAttention):
                layer.gate.gamma.data.normal_()
                layer.gate.temp.fill_(2.5)
        models[name] = model, folder / f'{name}.pth'
        torch.save(dict(state_dict=model.state_dict()), models[name][1])
    return models


@pytest.fixture(scope='session')
def images(shapes):
    """A folder with one folder of images per class."""
    return shapes / 'classes/val'


SUMS = (Tensor.add, Tensor.__add__, Tensor.__iadd__, Tensor.add_, torch.add)
SHORTCUTS = ('downsample', 'proj', 'shortcut')  # the modules of projection blocks


class ReferenceSum(TorchFunctionMode):
    """Replaces the sums of plain blocks by the paper's equation.

    It needs no rule: of the two terms of a sum, the shortcut is the one that is
    the block's input or the output of its projection.
    """

    def __init__(self, plain, converted):
        super().__init__()
        self.gate_of = {}  # a tensor that is a shortcut: the gate of its block
        self.handles = []
        self.sums = 0
        for name, block in converted.named_modules():
            if isinstance(block, AttentionBlock):
                self._watch(plain.get_submodule(name), block.attention.gate)

    def _watch(self, block, gate):
        for name in SHORTCUTS:
            module = getattr(block, name, None)
            if module is not None:
                self.handles.append(
                    module.register_forward_hook(
                        lambda m, args, out: self._remember(out, gate)
                    )
                )
                return
        self.handles.append(
            block.register_forward_pre_hook(lambda m, args: self._remember(*args, gate))
        )

    def _remember(self, shortcut, gate):
        self.gate_of[id(shortcut)] = shortcut, gate

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in SUMS and len(args) == 2:
            for x, F in (args, args[::-1]):
                if id(x) in self.gate_of and isinstance(F, Tensor):
                    _, gate = self.gate_of.pop(id(x))
                    self.sums += 1
                    n = torch.linalg.vector_norm(F, dim=(2, 3))
                    N = n / (n.mean(dim=1, keepdim=True) + 1e-6)
                    G = 1 + gate.gamma / gate.temp * N
                    return F + G[:, :, None, None] * x
        return function(*args, **(kwargs or {}))

    def __exit__(self, *args):
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*args)


@pytest.fixture
def reference_sum():
    """The class of the mode, called with the plain and the converted model."""
    return ReferenceSum
