"""Counting the parameters and multiply-accumulates of a model.

The counter is mmengine's FlopAnalyzer, which traces the model and so sees
every operator, whichever module or function it comes from. By itself it counts
convolutions, linear layers, norms, adaptive pooling and upsampling. Added here
are what attentions need besides: products, quotients, means and L2 norms, one
multiply-accumulate for each element. Additions, comparisons and activations
stay free, as they are to it.
"""

from functools import partial

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.jit_handles import elementwise_flop_counter
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

# Height and width: the paper's, and the crops of UperNet's config.
SHAPES = dict(mmpretrain=(224, 224), mmdet=(800, 1280), mmseg=(512, 512))

OPERATORS = {
    'aten::mul': elementwise_flop_counter(0, 1),
    'aten::div': elementwise_flop_counter(0, 1),
    'aten::mean': elementwise_flop_counter(1, 0),
    'aten::linalg_vector_norm': elementwise_flop_counter(1, 0),
}

# Table 4 counts the classifier of the pre-training with the detector.
CLASSIFIER = 2048 * 1000 + 1000


def build_model(cfg: Config) -> nn.Module:
    """The untrained model of a config, in evaluation mode."""
    if 'model' not in cfg:
        raise ValueError(f'{cfg.filename} has no model: it is no whole config')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.train()  # freezes stages
    return model.eval()


def count_params(model: nn.Module, trainable: bool = False) -> int:
    """The number of all parameters, or of those that are trained."""
    return sum(
        p.numel() for p in model.parameters() if p.requires_grad or not trainable
    )


def paper_params(model: nn.Module, table: int) -> int:
    """The number of parameters as the given table counts them."""
    if table == 4:
        return count_params(model, trainable=True) + CLASSIFIER
    return count_params(model)


def count_flops(model: nn.Module, shape: tuple[int, int]) -> FlopAnalyzer:
    """Trace the model's forward pass, without its post-processing.

    Args:
        model (nn.Module): A model of mmpretrain, mmdet or mmseg.
        shape (tuple[int, int]): Height and width of the one input image, in
            pixels. It is not padded.

    Returns:
        FlopAnalyzer: With the multiply-accumulates in all (``total()``), by
        operator and by module.
    """
    sample = BaseDataElement(metainfo=dict(img_shape=shape, batch_input_shape=shape))
    model.forward = partial(model.forward, data_samples=[sample], mode='tensor')
    if hasattr(model, 'rpn_head'):
        # Nothing is suppressed: the proposals are as many as in the config,
        # not as chance has it.
        model.rpn_head.test_cfg.nms.iou_threshold = 1.0
    image = torch.rand(1, 3, *shape)
    analyzer = FlopAnalyzer(model, image).set_op_handle(**OPERATORS)
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    with torch.no_grad():
        analyzer.total()
    return analyzer
