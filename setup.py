from setuptools import find_packages, setup

# One import name, two sets of distributions, which must never be installed
# beside each other. So ra_mm itself requires neither: choose an extra.
ONEDL = [
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmsegmentation>=1.4.2,<1.5',
    'onedl-mmpretrain>=1.3.6,<1.4',
]
OFFICIAL = [
    'mmengine==0.10.7',
    'mmcv==2.1.0',
    'mmdet==3.3.0',
    'mmsegmentation==1.2.2',
    'mmpretrain==1.2.0',
]
# For tools/export_onnx.py.
EXPORT = ['onnx>=1.17,<2', 'onnxruntime>=1.20,<2']

setup(
    name='ra_mm',
    version='0.1.0',
    description='Reverse attention (RA-Net) for MMDetection, MMSegmentation '
    'and MMPretrain',
    long_description=open('README.md', encoding='utf-8').read(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['ra_mm', 'ra_mm.*']),
    python_requires='>=3.10,<3.13',
    install_requires=['numpy', 'torch>=2.1', 'torchvision'],
    extras_require=dict(
        onedl=ONEDL,
        official=OFFICIAL,
        export=EXPORT,
        tests=['pytest>=8', *EXPORT]),
)
