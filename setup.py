from setuptools import find_packages, setup

# The maintained fork of the OpenMMLab packages. Its import names are those of
# the originals, over which pip would install it, so ra_mm itself does not
# require it: it is an extra.
ONEDL = [
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmsegmentation>=1.4.2,<1.5',
    'onedl-mmpretrain>=1.3.6,<1.4',
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
    author='The ra_mm contributors',
    packages=find_packages(include=['ra_mm', 'ra_mm.*']),
    python_requires='>=3.10,<3.13',
    # From 2.14 on PyTorch wants C++20, as which mmcv does not compile itself.
    install_requires=['numpy', 'torch>=2.5,<2.14', 'torchvision'],
    extras_require=dict(
        onedl=ONEDL,
        export=EXPORT,
        tests=['pytest>=8', 'pytest-xdist>=3', *EXPORT]),
)
