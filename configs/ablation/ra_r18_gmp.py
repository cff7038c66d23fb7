# The paper calls this unstable and trains with absolute values instead (Table 6).
_base_ = '../imagenet/ra_r18.py'

model = dict(
    backbone=dict(attention=dict(type='ra_mm.ReverseAttention', aggregation='gmp'))
)
