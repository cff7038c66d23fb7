_base_ = './mobilenetv2_1.0.py'

train_cfg = dict(max_epochs=200)
param_scheduler = dict(gamma=0.98**1.5)
