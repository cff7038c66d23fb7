"""Reverse attention (RA-Net) for residual networks in PyTorch and OpenMMLab."""

__version__ = '0.2.0'

TYPE_CHECKING = False  # type checkers take it for True, without importing typing
if TYPE_CHECKING:
    from ra_mm.conversion import convert
    from ra_mm.layers import TempSchedule

__all__ = ['TempSchedule', 'convert']


def __getattr__(name: str) -> object:  # so that importing ra_mm does not import PyTorch
    if name == 'convert':
        from ra_mm.conversion import convert

        return convert
    if name == 'TempSchedule':
        from ra_mm.layers import TempSchedule

        return TempSchedule
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
