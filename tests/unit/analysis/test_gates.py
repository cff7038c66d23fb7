"""Measured gates against the paper's equations, and the content of the figures."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch import nn

from ra_mm.analysis import gates
from ra_mm.backbones import RAMobileNetV2, RAResNet
from ra_mm.errors import UserError
from ra_mm.layers import ReverseAttention


def small(**kwargs):
    """A small RA-ResNet-18 with random gamma and temp = 2.5."""
    torch.manual_seed(0)
    backbone = RAResNet(18, base_channels=8, stem_channels=8, **kwargs)
    for layer in backbone.modules():
        if isinstance(layer, ReverseAttention):
            layer.gate.gamma.data.normal_()
            layer.gate.temp.fill_(2.5)
    return backbone.eval()


def gates_by_hand(backbone, image):
    """G and x of all blocks for one image, in NumPy and float64."""
    blocks, found = gates.find_blocks(backbone), {}

    def compute(layer, args):
        name = next(k for k, v in blocks.items() if v is layer)
        F, x = (a[0].detach().double().numpy() for a in args)
        norm = np.sqrt((F**2).sum(axis=(1, 2)))  # Eq. 3
        N = norm / (norm.mean() + 1e-6)  # Eq. 5
        gamma = layer.gate.gamma.detach().double().numpy()
        found[name] = 1 + gamma * N / layer.gate.temp.item(), x  # Eq. 8

    handles = [b.register_forward_pre_hook(compute) for b in blocks.values()]
    backbone(image)
    for handle in handles:
        handle.remove()
    return found


def names(first, stages, *blocks):
    """RA_i_j of consecutive stages with as many blocks, whose first is j."""
    return [
        f'RA_{i}_{j}' for i, n in enumerate(blocks, stages) for j in range(first, n + 1)
    ]


def test_names_of_the_paper():
    backbone = RAResNet(50)
    blocks = gates.find_blocks(backbone)
    assert list(blocks) == names(1, 2, 3, 4, 6, 3)
    assert blocks['RA_2_3'] is backbone.layer1[2].attention
    assert blocks['RA_5_1'] is backbone.layer4[0].attention
    chosen = 'RA_2_3 RA_3_4 RA_4_6 RA_5_1 RA_5_2 RA_5_3'.split()
    assert gates.choose_blocks(blocks) == chosen
    chosen = gates.choose_blocks(blocks, ['RA_5_1', 'RA_2_1', 'RA_5_1'])
    assert chosen == ['RA_2_1', 'RA_5_1']


def test_names_of_mobilenet():
    """Only blocks with a shortcut have a gate."""
    backbone = RAMobileNetV2(0.5)
    blocks = gates.find_blocks(backbone)
    assert list(blocks) == names(2, 3, 2, 3, 4, 3, 3)
    assert blocks['RA_3_2'] is backbone.layer2[1].attention
    chosen = 'RA_3_2 RA_4_3 RA_5_4 RA_6_3 RA_7_2 RA_7_3'.split()
    assert gates.choose_blocks(blocks) == chosen


def test_names_of_other_backbones():
    """The dotted name outside layer<i>.<j>; any attribute name inside."""
    backbone, block = nn.Module(), nn.Module
    backbone.stages = nn.ModuleList(
        nn.ModuleList(nn.ModuleDict(dict(ra=ReverseAttention(2))) for _ in range(2))
        for _ in range(2)
    )
    backbone.layer1 = nn.ModuleList([block(), block()])
    for attribute in ('gate', 'second'):
        setattr(backbone.layer1[1], attribute, ReverseAttention(2))
    blocks = gates.find_blocks(backbone)
    stages = [f'stages.{i}.{j}.ra' for i in range(2) for j in range(2)]
    assert list(blocks) == [*stages, 'RA_2_2', 'layer1.1.second']
    assert blocks['RA_2_2'] is backbone.layer1[1].gate
    assert gates.choose_blocks(stages) == stages[1:]


def test_wrong_names():
    with pytest.raises(UserError, match='RA_2_3, x: .* RA_2_1, RA_2_2'):
        gates.choose_blocks(['RA_2_1', 'RA_2_2'], ['RA_2_1', 'RA_2_3', 'x'])
    with pytest.raises(UserError, match='RAResNet has no reverse attention'):
        gates.find_blocks(RAResNet(18, attention=dict(type='ra_mm.SE')))


def has_hooks(backbone):
    return any(
        module._forward_hooks or module._forward_pre_hooks
        for module in backbone.modules()
    )


@pytest.fixture(scope='module')
def measured():
    """A backbone, images of three classes, and the measured gates."""
    backbone = small()
    torch.manual_seed(1)
    images = [(label, torch.randn(1, 3, 32, 48)) for label in ('a', 'b', 'a', 'c', 'a')]
    return backbone, images, gates.measure_gates(backbone, images, ['RA_2_1', 'RA_5_2'])


def test_numbers(measured):
    """The classes have different numbers of images."""
    backbone, images, result = measured
    by_hand = [gates_by_hand(backbone, image) for _, image in images]
    assert result['temp'] == 2.5
    assert result['classes'] == ['a', 'b', 'c']
    assert result['images'] == dict(a=3, b=1, c=1)
    assert list(result['blocks']) == names(1, 2, 2, 2, 2, 2)
    assert not has_hooks(backbone)
    for name, block in result['blocks'].items():
        G = np.array([found[name][0] for found in by_hand])
        of_class = [G[[0, 2, 4]].mean(0), G[1], G[3]]
        close = dict(rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(block['mean'], G.mean(), **close)
        np.testing.assert_allclose(block['spread'], G.mean(0).std(), **close)
        spread = np.std(of_class, axis=0).mean()
        np.testing.assert_allclose(block['class_spread'], spread, **close)
        assert ('G' in block) == (name in ('RA_2_1', 'RA_5_2'))
        for label, expected in zip('abc', of_class):
            if 'G' in block:
                np.testing.assert_allclose(block['G'][label], expected, **close)


def test_batches(measured):
    """A batch counts as the images in it."""
    backbone, images, result = measured
    a = torch.cat([image for label, image in images if label == 'a'])
    (_, b), (_, c) = images[1], images[3]
    again = gates.measure_gates(backbone, [('a', a), ('b', b), ('c', c)], ['RA_2_1'])
    assert again['images'] == result['images']
    np.testing.assert_allclose(
        again['blocks']['RA_2_1']['G']['a'],
        result['blocks']['RA_2_1']['G']['a'],
        atol=1e-5,
    )


def test_gamma_0_is_exactly_the_shortcut():
    backbone = RAResNet(18, base_channels=8, stem_channels=8).eval()
    image = torch.randn(1, 3, 32, 32)
    result = gates.measure_gates(backbone, [('a', image), ('b', 2 * image)], ['RA_3_1'])
    assert result['temp'] == 1
    for block in result['blocks'].values():
        assert block['mean'] == 1
        assert block['spread'] == block['class_spread'] == 0
    assert result['blocks']['RA_3_1']['G'] == dict(a=[1.0] * 16, b=[1.0] * 16)
    strip = gates.plot_strip(backbone, image, np.zeros((32, 32, 3)), ['RA_3_1'])
    assert (shown(strip, 2) == 1).all()


def test_diverged():
    backbone = small()
    backbone.layer2[0].attention.gate.gamma.data[3] = torch.nan
    with pytest.raises(UserError, match='RA_3_1: G is not finite'):
        gates.measure_gates(backbone, [('a', torch.randn(1, 3, 32, 32))], [])
    assert not has_hooks(backbone)


def test_plot(measured):
    *_, result = measured
    figure = gates.plot_gates(result)
    figure.draw_without_rendering()
    assert [ax.get_title().split()[0] for ax in figure.axes] == ['RA_2_1', 'RA_5_2']
    for ax, name in zip(figure.axes, ('RA_2_1', 'RA_5_2')):
        G = result['blocks'][name]['G']
        one, *lines = ax.lines
        assert list(one.get_ydata()) == [1, 1]
        assert [line.get_label() for line in lines] == list('abc')
        mean = np.mean([line.get_ydata() for line in lines], axis=0)
        assert (np.diff(mean) >= 0).all()
        for line in lines:
            assert sorted(line.get_ydata()) == sorted(G[line.get_label()])
    assert len({to_hex(line.get_color()) for line in lines}) == 3
    assert f'spread {result["blocks"]["RA_5_2"]["spread"]:.2g}' in (
        figure.axes[1].get_title()
    )
    assert 'temp = 2.5' in figure.get_suptitle()


def test_plot_of_many_classes():
    """The legend has at most 12 entries."""
    labels = [f'class {i}' for i in range(30)]
    block = dict(mean=1.0, spread=0.0, class_spread=0.0)
    block['G'] = {label: [1.0, i / 10] for i, label in enumerate(labels)}
    result = dict(temp=1.0, classes=labels, blocks=dict(RA_2_1=block))
    result['images'] = dict.fromkeys(labels, 1)
    figure = gates.plot_gates(result)
    assert len(figure.axes[0].lines) == 31
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 12
    assert legend.get_title().get_text() == '12 of 30 classes'


def test_plot_spread(measured):
    *_, result = measured
    figure = gates.plot_spread(result)
    figure.draw_without_rendering()
    blocks = result['blocks']
    for ax, key in zip(figure.axes, ('mean', 'spread', 'class_spread')):
        assert list(ax.lines[0].get_ydata()) == [b[key] for b in blocks.values()]
    assert [t.get_text() for t in figure.axes[-1].get_xticklabels()] == list(blocks)


def shown(figure, index):
    return np.asarray(figure.axes[index].images[0].get_array())


def test_plot_strip(measured):
    backbone, images, _ = measured
    _, image = images[0]
    picture = np.random.default_rng(0).integers(0, 255, (20, 40, 3)).astype(np.uint8)
    figure = gates.plot_strip(backbone, image, picture, ['RA_3_1', 'RA_4_2'])
    figure.draw_without_rendering()
    by_hand = gates_by_hand(backbone, image)
    assert (shown(figure, 0) == picture).all()
    # Not stretched over the padding.
    assert figure.axes[0].images[0].get_extent() == [0, 40, 20, 0]
    assert figure.axes[0].get_xlim() == (0, 48)
    for index, name in ((1, 'RA_3_1'), (3, 'RA_4_2')):
        G, x = by_hand[name]
        before = abs(x).mean(axis=0)
        after = abs(G[:, None, None] * x).mean(axis=0)
        assert figure.axes[index].get_title() == name
        np.testing.assert_allclose(shown(figure, index), before, rtol=1e-4)
        np.testing.assert_allclose(shown(figure, index + 1), after / before, rtol=1e-4)
    norms = [figure.axes[i].images[0].norm for i in (2, 4)]
    assert norms[0] is norms[1]
    assert norms[0](1.0) == 0.5  # white


def test_claims_of_fig_5():
    """Gates made to fulfil all three claims, and their opposite."""

    def made(depths):
        return dict(
            blocks={
                f'RA_{i}_1': dict(
                    spread=0.1 * depth,
                    class_spread=0.01 * depth,
                    **({} if i == 2 else {'G': {'a': [0.9, 1.2], 'b': [1.1, 1.3]}}),
                )
                for i, depth in enumerate(depths, 2)
            }
        )

    both_sides, spread, classes = gates.check_claims([made([1, 2, 3, 4])] * 3)
    assert 'RA_3_1 75%' in both_sides and 'RA_2_1' not in both_sides
    assert '+1.00' in spread and '3 of 3' in spread
    assert '+1.00' in classes and '3 of 3' in classes
    _, spread, classes = gates.check_claims([made([4, 3, 2, 1])])
    assert '-1.00' in spread and '0 of 1' in spread and '0 of 1' in classes
