"""Train in the memory format channels_last."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ra_mm.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep weights, and so activations, in channels_last (NHWC) during the training.

    Values, names and checkpoints stay as they are. PyTorch recommends it for float16
    and bfloat16 on a GPU; depthwise convolutions can gain on a CPU. To add it::

        --cfg-options default_hooks.layout.type=ra_mm.ChannelsLastHook
    """

    def before_train(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)
