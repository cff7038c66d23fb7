"""Hooks for training with reverse attention: annealing of temp, log of the gates."""

from .gate_log import GateLogHook
from .temp_annealing import TempAnnealingHook

__all__ = ['GateLogHook', 'TempAnnealingHook']
