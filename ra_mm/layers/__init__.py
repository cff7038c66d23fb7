"""Attentions that replace the sum of a residual block, in plain PyTorch."""

from .cbam import CBAM
from .controls import GatedResidual, StaticGate, ZeroScaledSE
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
ATTENTIONS = dict(
    ra=ReverseAttention,
    se=SE,
    cbam=CBAM,
    simam=SimAM,
    eca=ECA,
    grn=GRN,
    static_gate=StaticGate,
    gated_residual=GatedResidual,
    zero_scaled_se=ZeroScaledSE,
    on_residual=OnResidual,
)

__all__ = [
    'ATTENTIONS',
    'CBAM',
    'ECA',
    'GRN',
    'MGRN',
    'SE',
    'GatedResidual',
    'OnResidual',
    'ResidualSum',
    'ReverseAttention',
    'SimAM',
    'StaticGate',
    'TempSchedule',
    'ZeroScaledSE',
]
