"""Lists of labels and class folders, before mmpretrain reads them."""

import shutil
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from ra_mm.checks.hook import DataCheckHook
from ra_mm.errors import UserError


@pytest.fixture
def copied(shapes, tmp_path):
    return shutil.copytree(shapes / 'classes', tmp_path / 'classes')


@pytest.fixture
def classifier(load, copied):
    cfg = load('classifier')
    for part in ('train', 'val'):
        cfg[f'{part}_dataloader'].dataset.data_root = str(copied)
    return cfg


@pytest.fixture
def with_list(classifier, copied):
    """The config with a list of images and labels, changed line by line."""

    def put(change, names=True):
        folders = sorted(p.name for p in (copied / 'train').iterdir())
        lines = [
            change(str(p.relative_to(copied / 'train')), folders.index(p.parent.name))
            for p in sorted((copied / 'train').glob('*/*'))
        ]
        (copied / 'list.txt').write_text('\n'.join(lines) + '\n')
        classifier.train_dataloader.dataset.ann_file = 'list.txt'
        if names:
            classifier.train_dataloader.dataset.metainfo = dict(classes=folders)
        return classifier

    return put


def test_list(check, with_list):
    check(with_list(lambda path, label: f'{path} {label}'), 'train')
    twice = check(with_list(lambda path, label: f'{path} {label}\n{path} 0'), 'train')
    assert any('images have two classes' in text for text in twice)


@pytest.mark.parametrize(
    'change, expected',
    [
        (lambda path, label: f'{path}\t{label}', 'expected an image'),
        (lambda path, label: f'{path} {label}' if label else '', 'expected an image'),
        (lambda path, label: '', 'expected an image'),
        (lambda path, label: f'{path} {label - 1}', 'the labels (-1)'),
        (lambda path, label: f'{path} {label + 1}', 'subtract 1'),
        (lambda path, label: f'{path}x {label}', 'files are missing'),
    ],
)
def test_bad_list(refused, with_list, copied, change, expected):
    text = refused(with_list(change))
    assert f'{copied}/list.txt' in text and expected in text


def test_list_without_names(check, refused, with_list):
    """Then the labels fit the model."""
    check(with_list(lambda path, label: f'{path} {label}', names=False), 'train')
    bad = with_list(lambda path, label: f'{path} {label + 1}', names=False)
    assert 'subtract 1' in refused(bad)


@pytest.mark.parametrize('name', ['.ipynb_checkpoints', '__MACOSX'])
def test_hidden_folder(refused, classifier, copied, name):
    (copied / 'train' / name).mkdir()
    text = refused(classifier)
    assert f"rm -r '{copied}/train/{name}'" in text
    assert 'num_classes' not in text


def test_names_and_sizes_in_xml(found, tmp_path):
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'train.txt').write_text('1\n2\n')
    for i, name in ((1, 'disc'), (2, 'Disc')):
        size = f'<size><width>{i * 20}</width><height>64</height></size>'
        text = f'{size}<object><name>{name}</name></object>'
        path = tmp_path / f'Annotations/{i}.xml'
        path.write_text(f'<annotation>{text}</annotation>')
    dataset = dict(type='mmdet.XMLDataset', data_root=str(tmp_path), _delete_=True)
    dataset.update(ann_file='train.txt', metainfo=dict(classes=('disc',)))
    dataset['data_prefix'] = dict(sub_data_root='.')
    dataset['filter_cfg'] = dict(min_size=32)
    _, warnings = found('detector', {'train_dataloader.dataset': dataset})
    assert any('1 objects (Disc) are left out' in text for text in warnings)
    assert any('min_size=32: (1)' in text for text in warnings)


def test_too_few_images_for_a_batch():
    loop = SimpleNamespace(dataloader=DataLoader([1, 2], batch_size=4, drop_last=True))
    with pytest.raises(UserError, match='2 images make no batch of 4'):
        DataCheckHook().before_run(SimpleNamespace(train_loop=loop, val_loop=None))
