"""Backbones that are compiled in place, if that is faster."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from ra_mm.layers import ReverseAttention
from ra_mm.ops import CompilationFailed, compilation, compile_if_faster
from ra_mm.ops.compilation import CompiledCall

pytestmark = pytest.mark.skipif(
    not hasattr(torch.compiler, 'set_stance'), reason='PyTorch < 2.6 compiles nothing'
)


class Net(nn.Module):
    """A frozen layer, an RA block after dropout, and two outputs as in a detector."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.attention = ReverseAttention(4)
        nn.init.normal_(self.attention.gate.gamma)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.dropout(self.stem(x))
        return x, self.attention.tail(self.conv(x), self.norm, x, self.act)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def images(*size, seed=0):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def fake(seconds):
    """A torch.compile whose results take as many seconds as said, eager passes 1 s."""
    asked = []

    def compiler(function, **options):
        asked.append(options)
        return function

    def step(self):
        self.module(*self.args)
        time = 1.0 if self.module._compiled_call_impl is None else seconds
        return time, time

    return compiler, step, asked


def test_nothing_else_changes(net):
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    before, numbers = copy.deepcopy(net), torch.get_rng_state()
    choice = compile_if_faster(net, (images(6, 5),), steps=0)
    assert choice.mode == 'eager' and list(choice.seconds) == ['eager']
    assert choice.seconds['eager'] > 0 and choice.note in str(choice)
    torch.testing.assert_close(net.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert torch.equal(net.conv.weight.grad, torch.ones_like(net.conv.weight))
    assert net.norm.weight.grad is None
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize(
    'seconds, steps, agree, mode',
    [
        (0.9, 1801, bool, 'compiled'),
        (0.9, 1800, bool, 'eager'),  # a tenth is three minutes
        (0.99, 1801, bool, 'eager'),
        (0.9, 1801, lambda own: False, 'eager'),  # another process is slower
    ],
)
def test_choice(net, use_compiler, monkeypatch, seconds, steps, agree, mode):
    compiler, step, asked = fake(seconds)
    use_compiler(compiler)
    monkeypatch.setattr(compilation._Step, '__call__', step)
    monkeypatch.setattr(compilation, 'compiler_available', lambda device: True)
    choice = compile_if_faster(net, (images(6, 5),), steps=steps, agree=agree)
    assert choice.mode == mode and mode in str(choice)
    assert (net._compiled_call_impl is not None) == (mode == 'compiled')
    assert len(asked) == (steps > 1800 and agree(True))


@pytest.mark.parametrize(
    'dynamic, graphs, mode',
    [(True, False, None), (False, False, None), (False, True, 'reduce-overhead')],
)
def test_options(net, use_compiler, dynamic, graphs, mode):
    compiler, _, asked = fake(1)
    use_compiler(compiler)
    CompiledCall(net, None if dynamic else [(2, 3, 6, 5)], graphs)
    (options,) = asked
    assert options['dynamic'] == dynamic and options['mode'] == mode


def test_no_compiler(net, monkeypatch):
    monkeypatch.setattr(compilation, 'compiler_available', lambda device: False)
    assert 'no compiler' in compile_if_faster(net, (images(6, 5),)).note


def test_what_is_compiled(net, use_compiler):
    """Training with images of the size; not evaluation, nor copies."""
    calls = []

    def compiler(function, **options):
        return lambda *args: calls.append(args) or function(*args)

    use_compiler(compiler)
    keys = list(net.state_dict())
    net._compiled_call_impl = CompiledCall(net, [(2, 3, 6, 5)])
    assert list(net.state_dict()) == keys and net.train() is net
    net(images(6, 5))
    for eager in (copy.deepcopy(net), net.eval()):
        eager(images(6, 5))
    net.train()(images(5, 6))
    with torch.no_grad():
        net(images(6, 5))
    assert len(calls) == 1


def test_failure(net, use_compiler):
    """One warning, eager results, and no further attempt; the net's faults stay its."""

    def broken(function, **options):
        def call(*args):
            raise RuntimeError('no such compiler\ndetails')

        return call

    use_compiler(broken)
    x = images(6, 5)
    with pytest.warns(CompilationFailed, match='no such compiler') as caught:
        choice = compile_if_faster(net, (x,))
    assert len(caught) == 1 and 'failed' in choice.note and choice.mode == 'eager'
    net._compiled_call_impl = CompiledCall(net)
    with pytest.raises(RuntimeError, match='channels'):
        net(x[:, :2])
    with pytest.warns(CompilationFailed):
        net(x)
    assert net._compiled_call_impl is None


def test_a_graph_for_each_size(net, use_compiler):
    """After the second graph, compiling more would take longer than it saves."""

    def compiler(function, **options):
        def call(*args):
            counters['stats']['unique_graphs'] += 1
            return function(*args)

        return call

    use_compiler(compiler)
    net._compiled_call_impl = CompiledCall(net)
    for _ in '12':
        net(images(6, 5))
    with pytest.warns(CompilationFailed, match='sizes'):
        net(images(6, 5))
    assert net._compiled_call_impl is None


@pytest.mark.parametrize('norm_eval', [False, True])
def test_one_graph_serves_all_sizes(use_compiler, norm_eval):
    """Twenty sizes, with the gradients and statistics of eager mode in float64."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    use_compiler(lambda f, dynamic, **_: compile(f, dynamic=dynamic, backend=backend))
    torch.manual_seed(0)
    eager = Net(dropout=0).double()
    eager.norm.train(not norm_eval)
    compiled = copy.deepcopy(eager)
    compiled._compiled_call_impl = CompiledCall(compiled)
    for seed in range(20):
        size = torch.randint(2, 12, (2,), generator=torch.Generator().manual_seed(seed))
        results = []
        for net in (eager, compiled):
            net.zero_grad()
            y = net(images(*size, seed=seed).double())[1]
            y.square().sum().backward()
            results.append([y, *(p.grad for p in net.parameters() if p.requires_grad)])
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(eager.state_dict(), compiled.state_dict())
    assert compiled._compiled_call_impl is not None and len(graphs) <= 2
