# UperNet with SE-ResNet-50 (Table 5). It differs from the baseline in the backbone, and
# from RA in the attention and the missing annealing. On initial weights from a
# checkpoint, see upernet_ra_r50.py; on the default ones, faster_rcnn_se_r50.py.
_base_ = './upernet_ra_r50.py'

model = dict(backbone=dict(attention=dict(type='ra_mm.SE')))
custom_hooks = []
