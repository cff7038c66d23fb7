"""Attentions that replace the sum of a residual block; they need only PyTorch."""

from ra_mm.ops import bn_tail, force_path, tail

from .cbam import CBAM
from .controls import GatedResidual, StaticGate
from .eca import ECA
from .grn import GRN
from .m_grn import MGRN
from .on_residual import OnResidual
from .residual_sum import ResidualSum
from .reverse_attention import ReverseAttention
from .se import SE
from .simam import SimAM
from .temp_schedule import TempSchedule

# The attentions by their short names, for ra_mm.convert(model, 'ra')
NAMES = dict(
    ra=ReverseAttention,
    se=SE,
    cbam=CBAM,
    simam=SimAM,
    eca=ECA,
    grn=GRN,
    static_gate=StaticGate,
    gated_residual=GatedResidual,
    on_residual=OnResidual,
)

__all__ = [
    'CBAM',
    'ECA',
    'GRN',
    'MGRN',
    'NAMES',
    'GatedResidual',
    'OnResidual',
    'ResidualSum',
    'ReverseAttention',
    'SE',
    'SimAM',
    'StaticGate',
    'TempSchedule',
    'bn_tail',
    'force_path',
    'tail',
]
