_base_ = '../faster_rcnn_ra_r50.py'

custom_hooks = []  # temp = 1 throughout
