"""Log the gates of reverse attention during training."""

from collections import defaultdict

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ra_mm._torch import set_stance
from ra_mm.errors import UserError
from ra_mm.layers import MGRN
from ra_mm.registry import HOOKS
from ra_mm.validation import check_arg, integer


@HOOKS.register_module()
class GateLogHook(Hook):
    """Log the mean and the standard deviation of G for each stage.

    Both are taken over the samples of one batch and over the blocks and
    channels of a stage. They appear in the log beside the loss as
    ``G_layer1_mean`` and ``G_layer1_std`` (the paper's stage 2) and so on.
    G = 1 is the plain shortcut. No config has this hook; to add it::

        --cfg-options default_hooks.gates.type=ra_mm.GateLogHook

    Args:
        interval (int): Log every ``interval`` iterations. Defaults to 50,
            the default of mmengine's logger.

    Raises:
        ValueError: If interval < 1.
        UserError: Before training, if the model has no reverse attention.
    """

    def __init__(self, interval: int = 50) -> None:
        check_arg(integer(1), interval=interval)
        self.interval = interval
        self.gates: list[tuple[str, MGRN]] = []

    def before_train(self, runner: Runner) -> None:
        self.gates = [
            (name.split('backbone.')[-1].split('.')[0], module)
            for name, module in runner.model.named_modules()
            if isinstance(module, MGRN)
        ]
        if not self.gates:
            raise UserError('GateLogHook: the model has no reverse attention to log')

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.values: dict[MGRN, torch.Tensor] = {}
            self.handles = [
                gate.register_forward_hook(self._record) for _, gate in self.gates
            ]
            set_stance('force_eager')  # compiled graphs do not call the hooks

    def _record(self, gate, args, G):
        self.values[gate] = G.detach().flatten()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        set_stance('default')
        for handle in self.handles:
            handle.remove()
        stages = defaultdict(list)
        for stage, gate in self.gates:
            if gate not in self.values:
                raise UserError(
                    'GateLogHook: with a compiled model this hook needs PyTorch 2.6 or '
                    'newer; remove the hook or the compilation'
                )
            stages[stage].append(self.values[gate])
        for stage, values in stages.items():
            G = torch.cat(values)
            hub = runner.message_hub
            hub.update_scalar(f'train/G_{stage}_mean', G.mean().item())
            hub.update_scalar(f'train/G_{stage}_std', G.std().item())
