# UperNet with SE-ResNet-50 (Table 5), the baseline but for its backbone, and
# RA's but for the attention and the annealing. Its start from a checkpoint: as
# in upernet_ra_r50.py; without one: as in faster_rcnn_se_r50.py.
_base_ = './upernet_ra_r50.py'

model = dict(backbone=dict(attention=dict(type='ra_mm.SE')))
custom_hooks = []
