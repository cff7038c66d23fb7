# A template for your own dataset: Faster R-CNN with RA-ResNet-50 on BCCD (blood cells in
# microscope photographs, 292 + 72 images, COCO json). Copy this file within configs/ and
# change the marked lines.
_base_ = './faster_rcnn_ra_r50.py'

# The default folder; the environment variable DATA_ROOT overrides it.
data_root = '{{$DATA_ROOT:data/bccd}}'  # <- change, or '/path/to/data'
# In the order of the categories in the annotation files.
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))  # <- change
train_ann = 'annotations/train.json'  # <- change
val_ann = 'annotations/val.json'  # <- change
images = 'images/'  # <- change: the folder that file_name is relative to

model = dict(roi_head=dict(bbox_head=dict(num_classes=len(metainfo['classes']))))
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file=train_ann,
        data_prefix=dict(img=images),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file=val_ann,
        data_prefix=dict(img=images),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/{val_ann}')
test_evaluator = val_evaluator
