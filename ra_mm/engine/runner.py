"""A Runner that loses no checkpoint, loads no wrong one and names bad samples."""

import os
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ra_mm.engine.checkpoint_hook import SafeCheckpointHook, ValidateResumedHook
from ra_mm.engine.checkpoint_io import get_weights, latest_checkpoint, read_checkpoint
from ra_mm.engine.config import get_value
from ra_mm.engine.samples import name_samples
from ra_mm.engine.strict_load import load_strict
from ra_mm.errors import UserError, describe, translate_errors
from ra_mm.registry import RUNNERS
from ra_mm.validation import shorten

# What changes in a scheduler during a training.
PROGRESS = set('_global_step _last_value last_step best num_bad_epochs'.split())
PROGRESS |= {'cooldown_counter', 'rule_worse'}  # the latter is made anew
# What MMEngine's constructor of optimizers takes.
PARAMWISE = re.compile(
    '(bias_lr|(bias|norm|flat|dwconv)_decay|dcn_offset_lr)_mult|bypass_duplicate|custom_keys'
)


@RUNNERS.register_module()
class SafeRunner(Runner):
    """mmengine's Runner, made safe.

    ``runner_type='ra_mm.SafeRunner'`` in a config selects it, also under the
    ``tools/train.py`` of MMDetection, MMSegmentation and MMPretrain:

    - Checkpoints are written atomically (temporary file, then rename), and the
      first one is read back to prove that the run can be resumed.
    - An outdated checkpoint is deleted after its successor is on disk, see
      :class:`.SafeCheckpointHook`.
    - Weights to test or to resume must fit the complete model, those of
      ``load_from`` the backbone, see :func:`.load_strict`.
    - Checkpoints are read without running code.
    - A resumed checkpoint is validated if that was due.
    - Errors in a data pipeline name the image.

    Errors while the loops, the optimizer and the schedulers of a config are
    built are raised as :class:`.UserError`.
    """

    _load_options: Mapping = {}
    _is_proven = False

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'SafeRunner':
        if cfg.get('resume') and not cfg.get('load_from'):
            cfg = cfg.copy()
            cfg['load_from'] = latest_checkpoint(cfg['work_dir'])
        return super().from_cfg(cfg)

    # Checkpoints

    def register_hook(
        self, hook: Hook | dict, priority: str | int | None = None
    ) -> None:
        kinds = ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook)
        if isinstance(hook, dict) and hook.get('type') in kinds:
            hook = ConfigDict({**hook, 'type': SafeCheckpointHook})
        super().register_hook(hook, priority)

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        if '://' in str(out_dir):  # not a local folder
            return super().save_checkpoint(out_dir, filename, *args, **kwargs)
        path = Path(out_dir, filename)
        part = path.with_name(f'{filename}.part')
        try:
            super().save_checkpoint(out_dir, part.name, *args, **kwargs)
            if not self._is_proven:
                self._prove(part)
            os.replace(part, path)
        except OSError as e:
            raise UserError(f'{path} cannot be saved: {describe(e)}') from e
        finally:
            part.unlink(missing_ok=True)

    def _prove(self, path: Path) -> None:
        """Read back a checkpoint."""
        try:
            read_checkpoint(str(path))
        except UserError as e:
            text = 'a hook, a schedule or a dataset adds objects to checkpoints, from which'
            raise UserError(f'{text} this run could not be resumed: {e}') from e
        self._is_proven = True

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = True,
        revise_keys: Iterable[tuple[str, str]] = ((r'^module\.', ''),),
    ) -> Mapping:
        """Load a checkpoint, always strictly, see :func:`.load_strict`."""
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        weights = get_weights(checkpoint, filename)
        for pattern, replacement in revise_keys:
            weights = {re.sub(pattern, replacement, k): v for k, v in weights.items()}
        load_strict(self.model, weights, **self._load_options)
        if self._load_options.get('scope') != 'backbone':
            self._compare_classes(checkpoint.get('meta') or {}, filename)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _compare_classes(self, meta: Mapping, filename: str) -> None:
        """Refuse the same classes in another order, since a label is a number."""
        trained = [*((meta.get('dataset_meta') or {}).get('classes') or ())]
        own = [*((self.visualizer.dataset_meta or {}).get('classes') or ())]
        if trained != own and set(trained) == set(own):
            text = f'{filename} was trained with the same classes in another order'
            order = f'{shorten(trained)}, not {shorten(own)}'
            raise UserError(f'{text}, {order}; change metainfo.classes of the dataset')

    def train(self) -> nn.Module:
        self._load_options = dict(scope='backbone')
        try:
            return super().train()
        finally:
            self._load_options = {}

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._load_options = dict(scope='model', allow_plain=False)
        configured = self._get_schedules()
        super().resume(filename, *args, **kwargs)
        for own, saved in zip(configured, self._get_schedules()):
            changed = [k for k in own if saved[k] != own[k]]
            if changed:
                text = f'{filename} goes on with its schedule, not that of the config: '
                text += ', '.join(f'{k}={saved[k]}, not {own[k]}' for k in changed)
                text += f'. To change it, pass load_from={filename} without --resume'
                self.logger.warning(text)
        self.register_hook(ValidateResumedHook())

    def _get_schedules(self) -> list[dict]:
        """Return the settings of each scheduler, without its progress."""
        found: Any = self.param_schedulers or []
        built = chain(*found.values()) if isinstance(found, dict) else found
        return [{k: v for k, v in vars(s).items() if k not in PROGRESS} for s in built]

    # Building what the config says

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        loader = Runner.build_dataloader(*args, **kwargs)
        name_samples(loader.dataset)
        return loader

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        with translate_errors('train_cfg or train_dataloader cannot be built'):
            return super().build_train_loop(loop)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        with translate_errors('val_cfg, _dataloader or _evaluator cannot be built'):
            return super().build_val_loop(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        with translate_errors('test_cfg, _dataloader or _evaluator cannot be built'):
            return super().build_test_loop(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper:
        with translate_errors('optim_wrapper cannot be built'):
            built = super().build_optim_wrapper(optim_wrapper)
        names = [name for name, _ in self.model.named_parameters()]
        settings = get_value(optim_wrapper, 'paramwise_cfg') or {}
        keys = settings.get('custom_keys') or {}
        idle = [key for key in keys if not any(key in name for name in names)]
        if not get_value(optim_wrapper, 'constructor'):
            idle += [key for key in settings if not PARAMWISE.fullmatch(key)]
        if idle:
            text = f'{shorten(idle)} of paramwise_cfg are no settings, or in no name of'
            self.logger.warning(f'{text} a parameter, such as {names[-1]}')
        return built

    def build_param_scheduler(self, scheduler: Any) -> list | dict:
        with translate_errors('param_scheduler cannot be built'):
            return super().build_param_scheduler(scheduler)
