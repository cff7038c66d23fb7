_base_ = './ra_r50.py'

train_cfg = dict(max_epochs=300)
param_scheduler = dict(milestones=[90, 180, 270])
