_base_ = '../imagenet/ra_r18.py'

custom_hooks = []  # temp = 1 throughout
