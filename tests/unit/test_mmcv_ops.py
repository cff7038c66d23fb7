"""The stand-in for mmcv's operators: its installation, and what it computes."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ra_mm import _mmcv_ext, mmcv_ops
from ra_mm.errors import UserError

SIZES = dict(
    aligned_height=2, aligned_width=2, spatial_scale=0.5, sampling_ratio=0, aligned=True
)


@pytest.fixture
def add_distribution(monkeypatch, tmp_path):
    """Make ``importlib`` find distributions and the package mmcv in a folder."""
    site = tmp_path / 'site'
    site.mkdir()
    monkeypatch.setattr(sys, 'path', [str(site)])
    monkeypatch.delitem(sys.modules, 'mmcv', raising=False)
    monkeypatch.delitem(sys.modules, 'mmcv.ops', raising=False)

    def add(name, version):
        info = site / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
        (site / 'mmcv').mkdir(exist_ok=True)
        (site / 'mmcv/__init__.py').write_text('raise ImportError')
        return site / 'mmcv'

    return add


@pytest.fixture(params=[('onedl-mmcv', '2.3.6'), ('mmcv-lite', '2.1.0')])
def folder(add_distribution, request):
    """An mmcv without operators, of the fork or of the originals."""
    return add_distribution(*request.param)


@pytest.fixture
def older(folder):
    """A stand-in that another version of ra_mm has written."""
    path = folder / '_ext.py'
    path.write_text(f'{mmcv_ops.MARKER} 0.0.1\n')
    return path


def listing(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_install_and_remove(folder):
    before = listing(folder)
    assert 'no operators' in mmcv_ops.status()
    for _ in range(2):
        assert str(folder / '_ext.py') in mmcv_ops.install()
    assert listing(folder).keys() - before.keys() == {'_ext.py'}
    assert 'the stand-in' in mmcv_ops.status()
    assert 'differs' not in mmcv_ops.status()
    assert str(folder / '_ext.py') in mmcv_ops.remove()
    assert listing(folder) == before


def test_what_is_installed_works_without_ra_mm(folder, monkeypatch):
    mmcv_ops.install()
    monkeypatch.setitem(sys.modules, 'ra_mm', None)
    spec = importlib.util.spec_from_file_location('_ext', folder / '_ext.py')
    ext = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ext)
    assert ext.nms(torch.zeros(3, 4), torch.ones(3), 0.5, 0).tolist() == [0, 1, 2]


def test_another_version_of_the_stand_in_is_renewed(older):
    assert 'differs' in mmcv_ops.status()
    mmcv_ops.install()
    assert older.read_text() == mmcv_ops.stand_in_text()


def test_another_version_of_the_stand_in_is_removed(older):
    mmcv_ops.remove()
    assert not older.exists()


@pytest.mark.parametrize('run', [mmcv_ops.install, mmcv_ops.remove])
def test_a_file_of_somebody_else_stays(folder, run):
    (folder / '_ext.py').write_text('# mine')
    before = listing(folder)
    with pytest.raises(UserError, match=r'_ext\.py is not from ra_mm'):
        run()
    assert listing(folder) == before
    assert 'not from ra_mm' in mmcv_ops.status()


def test_compiled_operators_stay(folder):
    (folder / '_ext.cpython-311-x86_64-linux-gnu.so').touch()
    before = listing(folder)
    with pytest.raises(UserError, match='_ext.cpython-311.*compiled operators'):
        mmcv_ops.install()
    assert listing(folder) == before
    assert 'compiled operators' in mmcv_ops.status()


def test_compiled_operators_beside_the_stand_in_are_reported(older):
    (older.parent / '_ext.cpython-311-x86_64-linux-gnu.so').touch()
    assert '_ext.py beside them is not used' in mmcv_ops.status()


@pytest.mark.parametrize(
    'distribution, named',
    [
        (('mmcv-full', '1.7.2'), 'mmcv-full 1.7.2'),
        (('mmcv', '2.0.1'), 'mmcv 2.0.1'),
        (('onedl-mmcv', '2.4.0'), 'onedl-mmcv 2.4.0'),
    ],
)
def test_another_version_of_mmcv(add_distribution, distribution, named):
    folder = add_distribution(*distribution)
    before = listing(folder)
    with pytest.raises(UserError, match=named):
        mmcv_ops.install()
    assert listing(folder) == before


def test_two_distributions_in_one_folder(add_distribution):
    folder = add_distribution('onedl-mmcv', '2.3.6')
    add_distribution('mmcv', '2.1.0')
    before = listing(folder)
    with pytest.raises(UserError, match=r'onedl-mmcv and mmcv are both installed'):
        mmcv_ops.install()
    assert listing(folder) == before


def test_nothing_to_remove(folder):
    with pytest.raises(UserError, match=r'_ext\.py does not exist'):
        mmcv_ops.remove()


def test_the_stand_in_of_an_uninstalled_mmcv_can_be_removed(older):
    (older.parent / '__init__.py').unlink()
    mmcv_ops.remove()
    assert not older.exists()


@pytest.mark.parametrize('run', [mmcv_ops.install, mmcv_ops.remove, mmcv_ops.status])
def test_no_mmcv(monkeypatch, tmp_path, run):
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'mmcv', raising=False)
    with pytest.raises(UserError, match='mmcv is not installed'):
        run()


def test_a_folder_that_cannot_be_written(older, monkeypatch):
    def replace(*args):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('os.replace', replace)
    before = listing(older.parent)
    with pytest.raises(UserError, match=r'_ext\.py cannot be written \(Permission'):
        mmcv_ops.install()
    assert listing(older.parent) == before


def test_no_torchvision(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    before = listing(folder)
    with pytest.raises(UserError, match='no torchvision in this .* pip install'):
        mmcv_ops.install()
    assert listing(folder) == before


def test_a_torchvision_for_another_torch(folder, monkeypatch):
    def nms(*args):
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(torch.ops.torchvision, 'nms', nms)
    with pytest.raises(UserError, match='torch.*nms does not exist'):
        mmcv_ops.install()
    assert not (folder / '_ext.py').exists()


def test_mistakes_end_in_one_message(add_distribution):
    folder = add_distribution('onedl-mmcv', '2.3.6')
    (folder / '_ext.py').write_text('# mine')
    repo = Path(__file__).parents[2]
    code = f'import sys; sys.path[:0] = [{str(folder.parent)!r}, {str(repo)!r}]\n'
    code += "from ra_mm.mmcv_ops import main; main(['remove'])"
    run = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=repo
    )
    assert run.returncode == 1 and run.stdout == ''
    assert len(run.stderr.splitlines()) == 1 and '_ext.py' in run.stderr


def test_other_operators_raise_when_they_are_called():
    assert hasattr(_mmcv_ext, 'carafe_forward')
    assert not hasattr(_mmcv_ext, '__path__') and not hasattr(_mmcv_ext, '_any')
    with pytest.raises(NotImplementedError, match='have carafe_forward.*--no-build'):
        _mmcv_ext.carafe_forward(1, 2, scale=3)


def test_roi_align_of_maxima_raises():
    x, rois, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), torch.zeros(1, 1, 2, 2)
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        _mmcv_ext.roi_align_forward(x, rois, y, y, y, pool_mode=0, **SIZES)


def test_nms_compares_in_float32():
    boxes = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])  # an IoU of 0.6
    scores = torch.tensor([0.5, 0.9])
    assert _mmcv_ext.nms(boxes, scores, 0.6, 0).tolist() == [1, 0]
    assert _mmcv_ext.nms(boxes, scores, 0.5999, 0).tolist() == [1]
    # As pixels, both included: an IoU of 4/6 x 2/2.
    assert _mmcv_ext.nms(boxes, scores, 0.66, 1).tolist() == [1]
    assert _mmcv_ext.nms(boxes, scores, 0.67, 1).tolist() == [1, 0]


@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_every_float_type(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 9, dtype=dtype)
    rois = torch.tensor([[0, 1, 2, 9, 8], [1, 0, 0, 16, 16]], dtype=dtype)
    y, empty = x.new_zeros(2, 4, 2, 2), x.new_zeros(0)
    _mmcv_ext.roi_align_forward(x, rois, y, empty, empty, pool_mode=1, **SIZES)
    expected = torch.ops.torchvision.roi_align(
        x.float(), rois.float(), 0.5, 2, 2, 0, True
    )
    torch.testing.assert_close(y, expected.to(dtype))
    grad = torch.zeros_like(x)
    _mmcv_ext.roi_align_backward(y, rois, empty, empty, grad, pool_mode=1, **SIZES)
    assert grad.dtype == dtype and grad.abs().sum() > 0
    boxes, scores = rois[:, 1:], rois[:, 3]
    assert _mmcv_ext.nms(boxes, scores, 0.5, 0).tolist() == [1, 0]


def test_roi_align_of_channels_last():
    x, rois = torch.randn(1, 4, 9, 9), torch.tensor([[0, 1.0, 2, 9, 8]])
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        y, empty = x.new_zeros(1, 4, 2, 2), x.new_zeros(0)
        inputs = (x.to(memory_format=form), rois, y, empty, empty)
        _mmcv_ext.roi_align_forward(*inputs, pool_mode=1, **SIZES)
        results.append(y)
    assert torch.equal(*results)


def naive_roi_pool(x, roi, size, scale):
    """mmcv's definition, one pixel after another: values and pixel numbers."""
    image, (x1, y1) = int(roi[0]), (float(v) * scale for v in roi[1:3])
    x2, y2 = ((float(v) + 1) * scale for v in roi[3:])
    values, pixels = x.new_zeros(x.shape[1], size, size), {}
    for c in range(x.shape[1]):
        for i in range(size):
            for j in range(size):
                best, pixel = -math.inf, -1
                for v in range(x.shape[2]):
                    for u in range(x.shape[3]):
                        step = [(y2 - y1) / size, (x2 - x1) / size]
                        inside = (
                            x2 > x1
                            and y2 > y1
                            and math.floor(i * step[0] + y1) <= v
                            and v < math.ceil((i + 1) * step[0] + y1)
                            and math.floor(j * step[1] + x1) <= u
                            and u < math.ceil((j + 1) * step[1] + x1)
                        )
                        if inside and x[image, c, v, u] > best:
                            best, pixel = float(x[image, c, v, u]), v * x.shape[3] + u
                values[c, i, j] = best if pixel >= 0 else 0
                pixels[c, i, j] = pixel
    return values, pixels


def test_roi_pool():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 6, 7).relu()  # with equal pixels
    rois = torch.tensor(
        [
            [0, 1, 2, 20, 17],
            [1, 5.3, 2.6, 9.1, 30],  # partly outside
            [1, -9, -9, -5, -5],  # outside
            [0, 9, 9, 3, 3],  # corners in the wrong order
        ]
    )
    sizes = dict(pooled_height=3, pooled_width=3, spatial_scale=0.25)
    y, argmax = x.new_zeros(4, 2, 3, 3), torch.zeros(4, 2, 3, 3, dtype=torch.int)
    _mmcv_ext.roi_pool_forward(x, rois, y, argmax, **sizes)
    grad_output, grad = torch.rand_like(y), torch.zeros_like(x)
    _mmcv_ext.roi_pool_backward(grad_output, rois, argmax, grad, **sizes)

    expected = torch.zeros_like(x)
    for k, roi in enumerate(rois):
        values, pixels = naive_roi_pool(x, roi, 3, 0.25)
        assert torch.equal(y[k], values)
        for (c, i, j), pixel in pixels.items():
            assert argmax[k, c, i, j] == pixel
            if pixel >= 0:
                expected[int(roi[0]), c].view(-1)[pixel] += grad_output[k, c, i, j]
    torch.testing.assert_close(grad, expected)


def test_sigmoid_focal_loss_and_its_gradient():
    torch.manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3, 0, 1])  # 3 is the background
    p = x.sigmoid()
    positive = torch.eye(4, dtype=torch.bool)[target][:, :3]
    expected = torch.where(
        positive, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    )
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    loss, grad = torch.empty_like(x), torch.empty_like(x)
    for function, result in (('forward', loss), ('backward', grad)):
        function = getattr(_mmcv_ext, f'sigmoid_focal_loss_{function}')
        function(x.detach(), target, x.new_empty(0), result, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize('value', [-200.0, 200.0])
def test_the_focal_loss_of_extreme_logits_is_finite(value):
    x, result = torch.full((2, 1), value), torch.empty(2, 1)
    target = torch.tensor([0, 1])
    for function in ('forward', 'backward'):
        function = getattr(_mmcv_ext, f'sigmoid_focal_loss_{function}')
        function(x, target, x.new_empty(0), result, gamma=2.0, alpha=0.25)
        assert result.isfinite().all()


def test_deterministic_mode_warns_and_comes_back():
    torch.use_deterministic_algorithms(True)
    try:
        with _mmcv_ext._allow_nondeterministic():
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    with _mmcv_ext._allow_nondeterministic():
        assert not torch.are_deterministic_algorithms_enabled()
