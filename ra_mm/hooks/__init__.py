from .temp_annealing import TempAnnealingHook

__all__ = ['TempAnnealingHook']
