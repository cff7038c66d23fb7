"""Rules for blocks of one's own."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import ra_mm
from ra_mm.conversion import IDENTITY, AttentionBlock, add_rule
from ra_mm.conversion.rules import _RULES, split_norm
from ra_mm.ops import force_path

DOCS = Path(__file__).parents[3] / 'docs'


@pytest.fixture(autouse=True)
def own_rules(monkeypatch):
    """Rules that a test adds are forgotten after it."""
    rules = dict(_RULES)
    yield
    _RULES.clear()
    _RULES.update(rules)


class Block(nn.Module):
    def __init__(self, channels=4, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, stride=stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(2) if stride == 2 else None
        self.relu = nn.ReLU()

    def forward(self, x):
        F = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(F + (x if self.pool is None else self.pool(x)))


class SubBlock(Block):
    """Inherits the forward pass, and with it the rule."""


class OtherBlock(Block):
    """Has a forward pass of its own, for which the rule does not hold."""

    def forward(self, x):
        return super().forward(x) * 2


def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), SubBlock(stride=2))


def function():
    @add_rule(Block, channels=lambda block: block.conv2.out_channels)
    def rule(block, x):
        z = block.conv2(block.relu(block.bn1(block.conv1(x))))
        return z, block.bn2, x if block.pool is None else block.pool(x), block.relu


def test_own_rule():
    x = torch.randn(2, 4, 6, 6)
    with pytest.raises(ValueError, match='test_rules.Block.*blocks='):
        ra_mm.convert(model())
    function()
    converted = ra_mm.convert(model())
    assert all(isinstance(block, AttentionBlock) for block in converted)
    assert converted[0].attention.gate.gamma.shape == (4,)
    with force_path('reference'):
        assert torch.equal(converted(x), model()(x))
    torch.testing.assert_close(converted(x), model()(x))


def test_forward_of_its_own():
    function()
    mixed = nn.Sequential(Block(), OtherBlock())
    ra_mm.convert(mixed)
    assert [isinstance(m, AttentionBlock) for m in mixed] == [True, False]


def test_blocks_without_shortcut_stay():
    @add_rule(
        Block, channels=lambda block: 4, has_shortcut=lambda block: block.pool is None
    )
    def rule(block, x):
        return block.conv1(x), IDENTITY, x, IDENTITY

    assert isinstance(ra_mm.convert(model())[1], SubBlock)
    assert not isinstance(ra_mm.convert(model())[1], AttentionBlock)


def test_shortcut_of_another_shape():
    """A rule that forgets what the block does to its shortcut."""

    @add_rule(Block, channels=lambda block: 4)
    def rule(block, x):
        z = block.conv2(block.relu(block.bn1(block.conv1(x))))
        return z, block.bn2, x, block.relu

    converted = ra_mm.convert(model())
    with pytest.raises(
        ValueError, match=r'SubBlock.*\(2, 4, 3, 3\).*\(2, 4, 6, 6\).*add_rule'
    ):
        converted(torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize('cls', ['Block', 3, int, Block()])
def test_not_a_class(cls):
    with pytest.raises(ValueError, match='add_rule'):
        add_rule(cls, channels=lambda block: 4)


def test_class_without_rule_is_not_unpickled(tmp_path):
    function()
    torch.save(ra_mm.convert(model()), tmp_path / 'a.pt')
    _RULES.pop(Block)
    with pytest.raises(ValueError, match='test_rules.Block has no rule'):
        torch.load(tmp_path / 'a.pt', weights_only=False)


def test_split_norm():
    """Only a batch norm that ends the module is split off."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    conv, bn, relu = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    for module, norm in (
        (bn, bn),
        (nn.Sequential(conv, bn), bn),
        (nn.Sequential(relu, nn.Sequential(conv, bn)), bn),
        (nn.Sequential(conv, bn, relu), IDENTITY),
        (conv, IDENTITY),
    ):
        z, found = split_norm(module, x)
        assert found is norm
        assert torch.equal(found(z), module(x))
    watched = nn.Sequential(conv, bn)
    watched.register_forward_hook(lambda m, args, out: out + 1)
    assert split_norm(watched, x)[1] is IDENTITY


def test_examples_in_the_docs():
    """The code in docs/extending.md runs as it is printed."""
    text = (DOCS / 'extending.md').read_text()
    code = '\n'.join(re.findall(r'```python\n(.*?)```', text, re.S))
    assert 'add_rule' in code and 'ResidualSum' in code
    exec(compile(code, 'extending.md', 'exec'), {'__name__': 'extending'})
