"""Detectors and segmenters of the toolboxes, converted by a config of three lines."""

import copy
import json
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from ra_mm.layers import ReverseAttention

MMSEG = Path(mmseg.__file__).parent / '.mim/configs'  # 'mmseg::' may not resolve
THREE_LINES = """
_base_ = '{base}'
model = dict(
    backbone=dict(type='ra_mm.Converted', backbone=dict(type='{backbone}')))
"""
HRNET = 'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py'
CONVNEXT = 'convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'


def build(tmp_path, base, backbone):
    """The model, without the weights that its config would download."""
    path = tmp_path / 'config.py'
    path.write_text(THREE_LINES.format(base=base, backbone=backbone))
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    if cfg.default_scope == 'mmseg':
        cfg.model.pretrained = None
        cfg.model.data_preprocessor.size = (64, 64)
    plain = copy.deepcopy(cfg.model)
    plain.backbone.type = plain.backbone.pop('backbone')['type']
    torch.manual_seed(0)
    plain = revert_sync_batchnorm(MODELS.build(plain))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('.attention.gate.gamma' in k for k in missing)
    return model, plain


def detection(with_mask):
    return demo_mm_inputs(
        2, [[3, 64, 64]] * 2, num_classes=80, with_mask=with_mask, with_semantic=False
    )


def segmentation(num_classes):
    rng = np.random.RandomState(0)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
        labels = torch.from_numpy(rng.randint(0, num_classes, (1, 64, 64)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    images = torch.from_numpy(rng.randint(0, 255, (2, 3, 64, 64), dtype=np.uint8))
    return dict(inputs=list(images), data_samples=samples)


@pytest.mark.parametrize(
    'base, backbone, data, blocks',
    [
        (
            'mmdet::regnet/retinanet_regnetx-800MF_fpn_1x_coco.py',
            'RegNet',
            lambda: detection(False),
            16,
        ),
        (f'mmdet::{HRNET}', 'HRNet', lambda: detection(False), 108),
        (f'mmdet::{CONVNEXT}', 'mmpretrain.ConvNeXt', lambda: detection(True), 18),
        (
            MMSEG / 'hrnet/fcn_hr18s_4xb2-40k_cityscapes-512x1024.py',
            'HRNet',
            lambda: segmentation(19),
            40,
        ),
        (
            MMSEG / 'convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
            'mmpretrain.ConvNeXt',
            lambda: segmentation(150),
            18,
        ),
    ],
    ids=lambda value: None if callable(value) else str(value).split('/')[-1],
)
def test_step_and_validation(base, backbone, data, blocks, tmp_path):
    model, plain = build(tmp_path, base, backbone)
    gates = [m.gate for m in model.modules() if isinstance(m, ReverseAttention)]
    assert len(gates) == blocks
    data = data()

    def features(m):
        m.eval()
        with torch.no_grad():
            return m.extract_feat(m.data_preprocessor(data)['inputs'])

    # gamma = 0 is the plain model
    torch.testing.assert_close(features(model), features(plain), rtol=1e-3, atol=1e-3)
    model.train()
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    losses = model.train_step(data, optim)
    assert all(torch.as_tensor(v).isfinite().all() for v in losses.values())
    for name, p in model.named_parameters():
        if p.requires_grad and '.gamma' in name:
            assert p.grad is None or p.grad.isfinite().all(), name
    assert sum(bool(gate.gamma.any()) for gate in gates) >= blocks - 4
    results = model.eval().val_step(data)
    assert len(results) == 2


CLASSIFIER = """
_base_ = '{configs}/classifier.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ra_mm.Converted',
        backbone=dict(type='RegNet', arch='regnetx_400mf')),
    head=dict(in_channels=384))
custom_hooks = [dict(type='ra_mm.TempAnnealingHook', length=2, by_epoch=False)]
default_hooks = dict(
    logger=dict(interval=1), gates=dict(type='ra_mm.GateLogHook', interval=1))
"""


def test_tools(configs, tool, shapes, scalars, tmp_path, capsys):
    """Hooks, training, test, pictures, FLOPs and ONNX of a converted backbone."""
    config, work = tmp_path / 'regnet.py', tmp_path / 'work'
    config.write_text(CLASSIFIER.format(configs=configs))
    tool('train')(config, '--work-dir', work)
    assert [temp for _, temp, _ in scalars(work)] == [30, 15.5, 1, 1]
    logged = ''.join(p.read_text() for p in work.glob('*/vis_data/scalars.json'))
    assert all(f'G_layer{i}_std' in logged for i in (1, 2, 3, 4))

    checkpoint = work / 'epoch_1.pth'
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    assert weights['backbone.layer4.11.attention.gate.gamma'].any()
    tool('test')(config, checkpoint, '--work-dir', tmp_path / 'test')

    images, out = shapes / 'classes/val', tmp_path / 'gates'
    cpu = ['--device', 'cpu']
    tool('visualize_gates')(config, checkpoint, images, '--out', out, *cpu)
    assert 'RA_5_12' in json.loads((out / 'gates.json').read_text())['blocks']
    capsys.readouterr()
    tool('get_flops')(config)
    assert 'ReverseAttention' in capsys.readouterr().out
    error = tool('export_onnx')(config, checkpoint, '--out', tmp_path / 'model.onnx')
    assert error < 1e-4
