_base_ = './ra_mobilenetv2_1.0.py'

train_cfg = dict(max_epochs=300)
param_scheduler = dict(gamma=0.98)
