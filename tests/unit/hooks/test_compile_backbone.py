"""When the hook measures, and what it asks for."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from ra_mm.hooks import CompileBackboneHook, compile_backbone
from ra_mm.ops.compilation import Choice


class Model(BaseModel):
    """A backbone, with a frozen teacher before it and a head after it."""

    def __init__(self, sizes=(4,), name='backbone', **kwargs):
        super().__init__()
        self.teacher = nn.Sequential()
        self.teacher.backbone = nn.Conv2d(3, 4, 3).requires_grad_(False)
        self.name, self.sizes, self.seen = name, sizes, []
        setattr(self, name, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))

    def forward(self, inputs, mode):
        size = self.sizes[len(self.seen) % len(self.sizes)]
        self.seen.append(size)
        x = inputs[..., :size]
        y = getattr(self, self.name)(x).square() + self.teacher.backbone(x)
        return dict(loss=y.mean())


@pytest.fixture
def asked(monkeypatch):
    """What compile_if_faster was asked, at which training step."""
    asked = []

    def compile_if_faster(module, args, kwargs, **options):
        assert not module._forward_pre_hooks
        with options['context']():
            asked.append(dict(options, module=module, shape=args[0].shape))
        module._compiled_call_impl = module._call_impl
        return Choice('compiled', {'eager': 2.0, 'compiled': 1.0})

    monkeypatch.setattr(compile_backbone, 'compile_if_faster', compile_if_faster)
    return asked


@pytest.fixture
def trained(run):
    """Train a model for 4 epochs of 3 batches; with what was asked, the model."""

    def call(model=None, **kwargs):
        model = model or Model()
        run(CompileBackboneHook(), model=model, record=Hook(), **kwargs)
        return model

    return call


@pytest.mark.parametrize('sizes, dynamic', [((4,), False), ((4, 3), True)])
def test_after_eight_batches(trained, asked, sizes, dynamic):
    model = trained(Model(sizes))
    (options,) = asked
    assert options['module'] is model.backbone and options['steps'] == 12 - 8
    assert options['dynamic'] == dynamic and options['agree'](True)
    assert options['cuda_graphs'] and options['shape'][:2] == (4, 3)
    assert model.backbone._compiled_call_impl is None  # after the training


def test_no_cuda_graphs_where_gradients_are_accumulated(trained, asked):
    trained(wrapper=dict(accumulative_counts=2))
    assert not asked[0]['cuda_graphs']


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_deterministic_training(trained, asked, deterministic):
    trained()
    assert not asked


def test_nothing_to_measure(trained, asked):
    trained(epochs=2)  # too short
    trained(Model(name='encoder'))
    trained(cfg=dict(compile=True))
    compiled = Model()
    compiled.backbone[0]._compiled_call_impl = compiled.backbone[0]._call_impl
    trained(compiled)
    assert not asked


def test_a_failure_does_not_stop_the_training(trained, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError('no clock')

    monkeypatch.setattr(compile_backbone, 'compile_if_faster', fail)
    warnings = []
    monkeypatch.setattr(
        'mmengine.logging.MMLogger.warning',
        lambda self, text, *_: warnings.append(text),
    )
    assert len(trained().seen) == 12
    assert any('no clock' in text for text in warnings)
