"""A backbone through inductor, and those of the toolboxes."""

import copy
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.nn.functional import cross_entropy

from ra_mm.backbones import RAResNet
from ra_mm.ops import compilation, force_path
from ra_mm.ops.compilation import CompiledCall, compiler_available

pytestmark = pytest.mark.skipif(
    not compiler_available('cpu') or not shutil.which('g++'), reason='no compiler'
)


def make_model():
    """The first stage of an RA-ResNet-18."""
    torch.manual_seed(0)
    return RAResNet(
        18,
        num_stages=1,
        strides=(1,),
        dilations=(1,),
        out_indices=(0,),
        stem_channels=8,
        base_channels=8,
    ).train()


def ten_losses(model, path='fused', layout=torch.contiguous_format):
    """Train it to tell eight fixed images apart."""
    model.to(memory_format=layout)
    images = torch.randn(8, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    losses = []
    with force_path(path):
        for _ in range(10):
            features = model(images.to(memory_format=layout))[-1].mean(dim=(2, 3))
            loss = cross_entropy(features, torch.arange(8))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return torch.tensor(losses)


def test_losses_and_checkpoints(tmp_path):
    """As near to eager losses as those are to one another in other orders of sums."""
    start = make_model()
    eager, other_layout, other_path, compiled = (copy.deepcopy(start) for _ in range(4))
    compiled._compiled_call_impl = CompiledCall(compiled)
    expected = ten_losses(eager)
    found = ten_losses(compiled)
    assert compiled._compiled_call_impl is not None and found[-1] < found[0]
    spread = max(
        (ten_losses(other_layout, layout=torch.channels_last) - expected).abs().max(),
        (ten_losses(other_path, 'reference') - expected).abs().max(),
    )
    assert (found - expected).abs().max() <= 3 * max(spread, 1e-6)
    torch.testing.assert_close(
        compiled.state_dict(), eager.state_dict(), rtol=1e-3, atol=1e-4
    )
    x = torch.randn(2, 3, 48, 64)
    for source, target in ((compiled, make_model()), (eager, compiled)):
        torch.save(source.state_dict(), tmp_path / 'weights.pth')
        target.load_state_dict(torch.load(tmp_path / 'weights.pth'))
        torch.testing.assert_close(target.eval()(x), source.eval()(x))


@pytest.mark.parametrize('kind', ['detector', 'segmenter', 'classifier'])
def test_toolboxes(kind, configs, tmp_path, use_compiler, monkeypatch):
    """The hook finds the backbone of each toolbox, and changes no key."""
    compiled = []

    def compiler(function, **options):
        compiled.append(options)
        return function

    use_compiler(compiler)
    monkeypatch.setattr(compilation, 'COMPILATION_S', 0)
    monkeypatch.setattr(compilation, 'MARGIN', -9)
    monkeypatch.setattr(compilation, 'LIMIT_S', 0)
    cfg = Config.fromfile(configs / f'{kind}.py')
    cfg.work_dir = str(tmp_path)
    cfg.custom_hooks = [dict(type='ra_mm.CompileBackboneHook')]
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10, val_interval=10)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=10)
    runner = Runner.from_cfg(cfg)
    keys = list(runner.model.state_dict())
    runner.train()
    assert [options['dynamic'] for options in compiled] == [False]
    saved = torch.load(tmp_path / 'iter_10.pth', weights_only=False)
    assert list(saved['state_dict']) == keys
