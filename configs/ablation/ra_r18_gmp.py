# Unstable, says the paper: it trains the absolute values instead (Table 6).
_base_ = '../imagenet/ra_r18.py'

model = dict(
    backbone=dict(attention=dict(type='ra_mm.ReverseAttention', aggregation='gmp'))
)
