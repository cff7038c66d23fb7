"""Parameters and multiply-accumulates against the paper's, and tools/get_flops.py."""

from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.ops import CARAFEPack, DeformConv2d, ModulatedDeformConv2d
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ra_mm.analysis import complexity
from ra_mm.analysis.complexity import count_flops, count_params, not_counted
from ra_mm.analysis.operators import results_without_kernels
from ra_mm.models import build_model
from reproduction import paper

RA_R18 = paper.CONFIGS / 'imagenet/ra_r18.py'


@pytest.fixture
def get_flops(tool, capsys):
    """Run the tool and return what it prints."""

    def run(*argv):
        tool('get_flops')(*argv)
        return capsys.readouterr().out

    return run


def build(name):
    return build_model(Config.fromfile(paper.CONFIGS / name)).eval()


def flops(name, shape, **attention):
    cfg = Config.fromfile(paper.CONFIGS / name)
    if attention:
        cfg.model.backbone.attention = attention
    return count_flops(build_model(cfg).eval(), shape)


def check_params(row, millions):
    count = Decimal(millions)
    agrees = count.quantize(row.paper['params']) == row.paper['params']
    assert agrees != ('params' in row.misprints), (row, count)


@pytest.mark.parametrize('row', paper.rows(2, 3), ids=str)
def test_tables_2_and_3(row):
    """Every digit of Param., and of FLOPs as thop 0.1.1 counts them.

    Per element of a batch norm thop counts 4 and FlopAnalyzer 2. For the
    global pooling thop counts a sum and a division. It misses everything but
    the convolutions of an attention layer.
    """
    model = build(row.config)
    check_params(row, count_params(model) / 1e6)

    analyzer = count_flops(model, (224, 224))
    count = analyzer.by_operator()
    thop = count['conv'] + count['linear'] + 2 * count['batch_norm']
    thop += model.head.in_channels * (7 * 7 + 1)
    thop, printed = Decimal(thop) / 10**9, row.paper['flops']
    # Table 3 is truncated.
    rounding = ROUND_DOWN if row.table == 3 else ROUND_HALF_UP
    assert thop.quantize(printed, rounding) == printed
    # Ours counts no other operators.
    rest = {'adaptive_avg_pool2d', 'mul', 'div', 'mean', 'linalg_vector_norm'}
    assert count.keys() <= {'conv', 'linear', 'batch_norm'} | rest


@pytest.mark.parametrize('row', paper.rows(4), ids=str)
def test_table_4_params(row, monkeypatch):
    monkeypatch.setitem(complexity.SHAPES, 'mmdet', (64, 64))
    millions, _ = complexity.count_config(Config.fromfile(row.config), as_paper=True)
    check_params(row, millions)


@pytest.mark.parametrize(
    'type, cost',
    [
        # Sum of squares, G x; mean, N, gamma, temp
        ('ReverseAttention', lambda c, n: 2 * c * n + 4 * c),
        # Pooling, scaling; two layers
        ('SE', lambda c, n: 2 * c * n + 2 * c * c // 16),
        # Average pooling (maximum pooling is free), scaling, mean over the channels,
        # scaling; two layers twice; 7x7 convolution of 2 maps
        ('CBAM', lambda c, n: 4 * c * n + 4 * c * c // 16 + 2 * 49 * n),
        # Mean, square, quotient, scaling; lambda, n; 1 H W
        ('SimAM', lambda c, n: 4 * c * n + 2 * c + 2),
        # Mean, scaling; the convolution
        ('ECA', lambda c, n: 2 * c * n + (3 if c == 64 else 5) * c),
        # Norm, F N, gamma; mean, quotient
        ('GRN', lambda c, n: 3 * c * n + 2 * c),
        # G x; gamma, temp
        ('StaticGate', lambda c, n: c * n + 2 * c),
        # As reverse attention
        ('GatedResidual', lambda c, n: 2 * c * n + 4 * c),
    ],
)
def test_attentions_are_counted(type, cost):
    """By hand at 64x64: 4 stages of 2 blocks, with c channels and n pixels."""
    stages = [(64, 256), (128, 64), (256, 16), (512, 4)]
    plain = flops('imagenet/r18.py', (64, 64)).total()
    ours = flops('imagenet/ra_r18.py', (64, 64), type=f'ra_mm.{type}').total()
    assert ours - plain == 2 * sum(cost(c, n) for c, n in stages)


def test_detector():
    """1,000 proposals, for any random weights."""
    count = flops('faster_rcnn_r50.py', (96, 160))
    a_box = 256 * 7 * 7 * 1024 + 1024 * 1024 + 1024 * (81 + 4 * 80)
    assert count.by_operator()['linear'] == 1000 * a_box


class Parts(nn.Module):
    """A backbone, perhaps with a neck and a head, called as OpenMMLab calls models."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*(MODELS.build(part) for part in parts))

    def forward(self, image, data_samples, mode):
        return self.parts(image)


def count_by_hooks(model, shape):
    """Count the products of all convolutions and CARAFEs."""
    counts = []

    def count(module, inputs, out):
        window = getattr(module, 'up_kernel', 0) ** 2
        counts.append(out.numel() * (window or module.weight[0].numel()))

    for module in model.modules():
        if isinstance(
            module, (nn.Conv2d, DeformConv2d, ModulatedDeformConv2d, CARAFEPack)
        ):
            module.register_forward_hook(count)
    with torch.no_grad(), results_without_kernels():
        model.eval()(torch.rand(1, 3, *shape), None, 'tensor')
    return sum(counts)


R50 = dict(type='mmdet.ResNet', depth=50)
DCN = dict(type='DCN', deform_groups=1, fallback_on_stride=False)
STAGES = dict(stage_with_dcn=(False, True, True, True))
NECK = dict(in_channels=[256, 512, 1024, 2048], out_channels=64, num_outs=4)
HEAD = dict(type='mmdet.GARetinaHead', num_classes=3, in_channels=64)


@pytest.mark.parametrize(
    'parts',
    [
        [dict(R50, **STAGES, dcn=DCN)],
        [dict(R50, **STAGES, dcn=dict(DCN, type='DCNv2'))],
        [R50, dict(NECK, type='mmdet.FPN_CARAFE')],
        [R50, dict(NECK, type='mmdet.FPN'), HEAD],  # masked and deformable
    ],
    ids=['DCN', 'DCNv2', 'FPN_CARAFE', 'GARetinaHead'],
)
def test_operators_of_mmcv(parts):
    """All but norms, upsampling and products of single elements, against hooks."""
    model = Parts(*parts)
    analyzer = count_flops(model, (96, 128))
    assert not not_counted(model, analyzer)
    count = analyzer.by_operator()
    others = ('batch_norm', 'group_norm', 'upsample_nearest2d', 'mul', 'div', 'mul_')
    products = analyzer.total() - sum(count[name] for name in others)
    assert products == count_by_hooks(model, (96, 128))


def test_the_tool_names_what_is_not_counted(get_flops):
    """The samples of RoIAlign depend on the boxes, and those on the weights."""
    out = get_flops(paper.CONFIGS / 'faster_rcnn_r50.py', '--shape', 64)
    assert 'RoIAlignFunction in roi_head.bbox_roi_extractor.roi_layers.0' in out
    name = '.mim/configs/point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py'
    out = get_flops(Path(mmdet.__path__[0], name), '--shape', 64)
    assert 'not counted: roi_head.point_head' in out


def test_model(get_flops):
    """With an input that is no square, and 10 classes in the place of 1,000."""
    options = ['--cfg-options', 'model.head.num_classes=10']
    out = get_flops(RA_R18, '--shape', 64, 96, *options)
    assert 'ra_r18.py, 64 x 96 pixels (H x W)' in out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    model = 11_691_432 - 990 * 513
    assert lines['model'][0] == f'{model / 1e6:.3f}'
    assert lines['head'] == ['0.005', '0.000']
    assert lines['trainable'] == lines['model'][:1]


def test_paper(get_flops, monkeypatch):
    rows = [paper.rows(2)[0], paper.rows(2)[3], paper.rows(2)[7]]
    monkeypatch.setattr(paper, 'rows', lambda *tables: rows)
    out = get_flops('--paper', 2)
    assert 'Table 2, ResNet18\n' in out
    assert 'ResNet18                11.69    11.69   +0.00     1.824' in out
    assert '25.56    25.57   +0.01*    4.134    4.123  -0.011' in out
    assert "* Table 2, ResNet50, +RA: 25.57 with RA's 15,104" in out


@pytest.mark.parametrize(
    'argv, named',
    [
        ([RA_R18, '--cfg-options', 'model.backbone.depth=17'], 'depth 17'),
        ([RA_R18, '--cfg-options', 'model.backbone.out_indices=[0]'], 'ra_r18.py'),
        (['empty.py'], 'empty.py'),
    ],
)
def test_wrong_config(tool, message, argv, named, tmp_path, monkeypatch):
    """The second to last cannot be counted: its head has another width."""
    (tmp_path / 'empty.py').write_text('a = 1\n')
    monkeypatch.chdir(tmp_path)
    assert named in message(tool('get_flops'), *argv)


def test_grey_images(get_flops, configs):
    options = ['--cfg-options', 'model.backbone.in_channels=1']
    assert 'FLOPs' in get_flops(configs / 'classifier.py', *options)
