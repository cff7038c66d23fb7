_base_ = './r50.py'

model = dict(backbone=dict(type='ra_mm.RAResNet'))
custom_hooks = [dict(type='ra_mm.TempAnnealingHook')]
