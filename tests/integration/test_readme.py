"""The commands, configs, code and links of the README and of docs/ are right."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.distributed.run import get_args_parser as get_torchrun_parser

import ra_mm
from ra_mm._torch import COMPILES_FUNCTIONS
from ra_mm.cli import load_config
from ra_mm.layers import ReverseAttention
from ra_mm.ops import compilation
from reproduction import paper

REPO = paper.CONFIGS.parent
PAGES = {
    str(path.relative_to(REPO)): path.read_text()
    for path in (REPO / 'README.md', REPO / 'CONTRIBUTING.md', *REPO.glob('docs/*.md'))
}
MIM = re.compile(r'\$\(python -c "import (\w+); .*"\)/\.mim/tools')
TRAIN = 'python tools/train.py configs/faster_rcnn_ra_r50.py'
# Programs that are not checked here
OTHERS = 'git', 'pip', 'pre-commit', 'source', 'tensorboard'


def find_blocks(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', PAGES[page], re.M | re.S)


def find_commands():
    """List the commands of all pages, with the values of the variables that they set."""
    commands = []
    for page, text in PAGES.items():
        variables = {}
        blocks = find_blocks(page, 'bash')
        for options in re.findall(r'`([^`\n]*--cfg-options [^`\n]*)`', text):
            blocks.append(f'{TRAIN} {options}')
        for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
            line = MIM.sub(lambda m: f'{find_package(m[1])}/.mim/tools', line)
            words = shlex.split(line, comments=True)
            while words and re.match(r'\w+=', words[0]):
                name, _, value = words.pop(0).partition('=')
                variables[name] = value
            if words:
                command = [
                    re.sub(r'\$(\w+)', lambda m: variables[m[1]], word)
                    for word in words
                ]
                commands.append(pytest.param(command, id=f'{page}-{len(commands)}'))
    return commands


def find_package(name):
    return Path(importlib.util.find_spec(name).origin).parent


@pytest.mark.parametrize('command', find_commands())
def test_command(command, monkeypatch):
    """Files, options and config keys exist; placeholders are in capitals."""
    monkeypatch.chdir(REPO)
    monkeypatch.setenv('LOCAL_RANK', '0')
    if command[0] == 'torchrun':
        args = get_torchrun_parser().parse_args(command[1:])
        command = ['python', args.training_script, *args.training_script_args]
        assert 'pytorch' in command
    if command[0] == 'srun':
        command = command[command.index('python') :]
    program, *argv = command
    if program == 'make':
        check_make(argv)
    elif program == 'mim':
        _, package, config = argv[:3]
        assert package == 'ra_mm' and [*REPO.glob(f'**/configs/{Path(config).name}')]
    elif program.startswith('python') and argv[0] == '-m':
        assert importlib.util.find_spec(argv[1])
    elif program == 'python':
        check_script(Path(argv[0]), argv[1:])
    elif program == 'pip' and argv[1] == '-e':
        assert importlib.util.find_spec('ra_mm')
    else:
        assert Path(program).name in OTHERS


def check_make(argv):
    makefile = (REPO / 'Makefile').read_text()
    for word in argv:
        name, is_variable, _ = word.partition('=')
        assert re.search(rf'^{name} ?{"[?]=" if is_variable else ":"}', makefile, re.M)


def check_script(path, argv):
    if path.parts[0] not in ('tools', 'examples'):  # of a toolbox
        text = path.read_text()
        assert all(word in text for word in argv if word.startswith('--'))
        return
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    args = module.parse_args(argv)
    config = getattr(args, 'config', None) or ''
    if config.startswith('configs/'):
        load_config(config, args.cfg_options)
    assert not config or config.isupper() or Path(config).exists()


CONFIGS = [
    pytest.param(block, id=f'{page}-{i}')
    for page in PAGES
    for i, block in enumerate(find_blocks(page, 'python'))
    if '_base_ =' in block
]


@pytest.mark.parametrize('text', CONFIGS)
def test_config(text, tmp_path):
    """The backbone has reverse attention, and temp is annealed."""
    for folder in (paper.CONFIGS, paper.CONFIGS / 'imagenet'):
        for name in re.findall(r"_base_ = '\./(\w+\.py)'", text):
            if (folder / name).exists():
                text = text.replace(f'./{name}', str(folder / name))
    path = tmp_path / 'own.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    backbone = MODELS.build(cfg.model.backbone)
    assert any(isinstance(m, ReverseAttention) for m in backbone.modules())
    backbone.eval()
    assert all(
        features.isfinite().all() for features in backbone(torch.ones(1, 3, 64, 64))
    )
    (hook,) = cfg.custom_hooks
    assert hook.type == 'ra_mm.TempAnnealingHook'
    for name in ('head', 'decode_head'):
        classes = cfg.train_dataloader.dataset.get('metainfo', {}).get('classes')
        if classes and name in cfg.model:
            assert cfg.model[name].num_classes == len(classes)


def join_code(page):
    blocks = find_blocks(page, 'python')
    return '\n'.join(b for b in blocks if '_base_ =' not in b and 'Inferencer' not in b)


@pytest.mark.parametrize('page', [page for page in PAGES if join_code(page)])
def test_code(page, tmp_path, monkeypatch):
    """The code runs, with a small network and small data in the place of others."""
    code = join_code(page)
    if 'torch.export' in code and not COMPILES_FUNCTIONS:
        pytest.skip('torch.export before PyTorch 2.5')
    monkeypatch.chdir(tmp_path)
    resnet18 = torchvision.models.resnet18
    monkeypatch.setattr(torchvision.models, 'resnet50', lambda weights: resnet18())
    monkeypatch.setattr(compilation, 'compiler_available', lambda device: False)
    images = torch.randn(2, 3, 64, 64)
    model = ra_mm.convert(resnet18(num_classes=4))
    torch.save(model.state_dict(), 'model.pth')
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = dict(model=model, optimizer=optimizer, images=images)
    names.update(epochs=1, steps_per_epoch=1, loader=2 * [(images, 0)])
    exec(compile(code, 'code', 'exec'), names)


@pytest.mark.parametrize('kind', ['detector', 'segmenter', 'classifier'])
def test_inferencer(kind, saved_models, configs, tmp_path):
    """In a new process and any folder, without importing ra_mm."""
    cv2.imwrite(str(tmp_path / 'image.jpg'), np.zeros((64, 64, 3), np.uint8))
    package = dict(detector='mmdet', segmenter='mmseg', classifier='mmpretrain')[kind]
    blocks = find_blocks('docs/deployment.md', 'python')
    (code,) = (b for b in blocks if f'from {package}.apis' in b)
    code = code.replace('CONFIG.py', str(configs / f'{kind}.py'))
    _, path = saved_models[kind]
    code = re.sub(r"'\w+\.pth'", repr(str(path)), code)
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
    assert kind == 'classifier' or any((tmp_path / 'found').rglob('image*'))


MODELS_OF_MMSEG = sorted(
    path.name
    for path in Path(mmseg.__path__[0]).glob('.mim/configs/_base_/models/*.py')
    if "backbone=dict(\n        type='ResNetV1c'" in path.read_text()
)


def test_models_of_mmseg_are_found():
    """The documentation states how many there are."""
    assert f'all {len(MODELS_OF_MMSEG)} base models' in PAGES['docs/conversion.md']


@pytest.mark.parametrize('name', MODELS_OF_MMSEG)
def test_inherited_from_mmseg(name, tmp_path):
    """RA takes every option: dilations, one output or several, and so on."""
    path = tmp_path / 'own.py'
    (text,) = (b for b in find_blocks('README.md', 'python') if "'mmseg'" in b)
    (base,) = re.findall(r"/.mim/configs/(\S+)'", text)
    path.write_text(text.replace(base, f'_base_/models/{name}'))
    cfg = Config.fromfile(path)
    ours = dict(cfg.model.backbone, init_cfg=None, depth=18)
    theirs = dict(ours, type='mmseg.ResNetV1c')
    del theirs['deep_stem']
    x = torch.randn(1, 3, 64, 64)
    shapes = []
    for backbone in (ours, theirs):
        model = MODELS.build(backbone)
        model.eval()
        shapes.append([y.shape for y in model(x)])
    assert shapes[0] == shapes[1]
