"""Logging what the gates of reverse attention do while a model trains."""

from collections import defaultdict

import torch
from mmengine.hooks import Hook

from ra_mm.layers import ReverseAttention
from ra_mm.registry import HOOKS
from ra_mm.validation import check_arg, integer


@HOOKS.register_module()
class GateLogHook(Hook):
    """Log mean and standard deviation of G for each stage.

    Both are taken over the samples of one batch, the blocks and the channels
    of a stage, and stand in the log beside the loss as ``G_layer1_mean`` and
    ``G_layer1_std`` (the paper's stage 2) and so on. G = 1 is the plain
    shortcut. No config has this hook; to ask for it::

        --cfg-options default_hooks.gates.type=ra_mm.GateLogHook

    Args:
        interval (int): Iterations from one look at G to the next.
            Defaults to 50, the logger's.

    Raises:
        ValueError: If interval < 1; before training, if the model has no RA
            layer.
    """

    def __init__(self, interval: int = 50) -> None:
        check_arg(integer(1), interval=interval)
        self.interval = interval
        self.layers = []

    def before_train(self, runner) -> None:
        self.layers = [
            (name.split('backbone.')[-1].split('.')[0], layer)
            for name, layer in runner.model.named_modules()
            if isinstance(layer, ReverseAttention)
        ]
        if not self.layers:
            raise ValueError(
                'GateLogHook: the model has no ReverseAttention layer to log'
            )

    def before_train_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.gates = {}
            for _, layer in self.layers:
                layer.gate = self._recorder(layer)

    def _recorder(self, layer):
        """The layer's own gate, which leaves G in ``self.gates``."""

        def gate(F):
            G = type(layer).gate(layer, F)
            self.gates[layer] = G.detach().flatten()
            return G

        return torch.compiler.disable(gate)  # a graph would leave it out

    def after_train_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        stages = defaultdict(list)
        for stage, layer in self.layers:
            del layer.gate
            if layer not in self.gates:
                raise RuntimeError(
                    'GateLogHook: the compiled model does not call the gates; '
                    'leave out one of the two, or try a newer PyTorch'
                )
            stages[stage].append(self.gates[layer])
        for stage, gates in stages.items():
            G = torch.cat(gates)
            hub = runner.message_hub
            hub.update_scalar(f'train/G_{stage}_mean', G.mean().item())
            hub.update_scalar(f'train/G_{stage}_std', G.std().item())
