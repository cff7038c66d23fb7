_base_ = '../imagenet/ra_mobilenetv2_1.0.py'

custom_hooks = []  # temp = 1 throughout
