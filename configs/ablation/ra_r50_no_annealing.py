_base_ = '../imagenet/ra_r50.py'

custom_hooks = []  # temp = 1 throughout
