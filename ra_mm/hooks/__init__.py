"""Hooks for training with reverse attention."""

from .fastest_path import FastestPathHook
from .gate_log import GateLogHook
from .temp_annealing import TempAnnealingHook

__all__ = ['FastestPathHook', 'GateLogHook', 'TempAnnealingHook']
