_base_ = './r50.py'

train_cfg = dict(max_epochs=200)
param_scheduler = dict(milestones=[60, 120, 180])
