"""Hooks for training with reverse attention."""

from .fastest_path import FastestPathHook
from .gate_log import GateLogHook
from .temp_annealing import TempAnnealingHook
from .validate_first import ValidateFirstHook

__all__ = ['FastestPathHook', 'GateLogHook', 'TempAnnealingHook', 'ValidateFirstHook']
