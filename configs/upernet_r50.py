# The baseline of Table 5: MMSegmentation's own 80k schedule on ADE20K, 4 GPUs with 4
# crops of 512x512 each. Its ResNet-50 has the deep stem (ResNetV1c). The base is given
# by its path because 'mmseg::' does not resolve with every distribution of
# MMSegmentation.
_base_ = (
    __import__('mmseg').__path__[0]
    + '/.mim/configs/upernet/upernet_r50_4xb4-80k_ade20k-512x512.py'
)

# MMSegmentation's config has no base batch size for scaling the learning rate.
auto_scale_lr = dict(enable=False, base_batch_size=16)
