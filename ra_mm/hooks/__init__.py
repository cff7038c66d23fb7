from .gate_log import GateLogHook
from .temp_annealing import TempAnnealingHook

__all__ = ['GateLogHook', 'TempAnnealingHook']
