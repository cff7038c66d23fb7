"""Hooks for training with reverse attention."""

from .channels_last import ChannelsLastHook
from .compile_backbone import CompileBackboneHook
from .gate_log import GateLogHook
from .temp_annealing import TempAnnealingHook
from .validate_first import ValidateFirstHook

__all__ = [
    'ChannelsLastHook',
    'CompileBackboneHook',
    'GateLogHook',
    'TempAnnealingHook',
    'ValidateFirstHook',
]
