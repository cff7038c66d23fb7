"""Training an RA backbone on CUDA: AMP, channels-last, SyncBN, compilation."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters

from ra_mm.backbones import RAResNet
from ra_mm.ops import compile_if_faster, force_path
from ra_mm.ops.compilation import CompiledCall


def small_resnet(**kwargs):
    """A narrow RA-ResNet-50 on the GPU, with gates that are not 1."""
    torch.manual_seed(0)
    attention = dict(type='ra_mm.ReverseAttention')
    model = RAResNet(
        50, stem_channels=16, base_channels=16, attention=attention, **kwargs
    )
    for name, p in model.named_parameters():
        if name.endswith('gamma'):
            nn.init.normal_(p, std=0.3)
    return model.cuda().train()


def images(dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 64, 64, generator=g).to('cuda', dtype)


def loss_and_gradients(model, path, x, autocast=None, scale=1.0):
    with (
        force_path(path),
        torch.autocast('cuda', autocast or torch.float16, enabled=autocast is not None),
    ):
        loss = model(x)[-1].float().square().mean()
    grads = torch.autograd.grad(scale * loss, list(model.parameters()))
    return loss, [g.float() / scale for g in grads]


def distance(a, b):
    """The relative distance between two lists of gradients."""
    difference = sum((p - q).double().square().sum() for p, q in zip(a, b))
    return (difference / sum(q.double().square().sum() for q in b)).sqrt().item()


@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize('path', ['fused_sum', 'fused'])
def test_a_backbone_agrees_with_the_reference_path(path, memory_format):
    """In float64, where no ReLU switches."""
    model = small_resnet().double().to(memory_format=memory_format)
    x = images(torch.float64).to(memory_format=memory_format)
    loss, grads = loss_and_gradients(copy.deepcopy(model), path, x)
    exact_loss, exact_grads = loss_and_gradients(model, 'reference', x)
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-5)
    assert distance(grads, exact_grads) < 1e-5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_as_exact_as_the_reference_path(dtype):
    model, x = small_resnet().to(memory_format=torch.channels_last), images()
    x = x.to(memory_format=torch.channels_last)
    scale = 1024.0 if dtype == torch.float16 else 1.0
    _, exact = loss_and_gradients(
        copy.deepcopy(model).double(), 'reference', x.double()
    )
    errors = {
        path: distance(
            loss_and_gradients(copy.deepcopy(model), path, x, dtype, scale)[1], exact
        )
        for path in ('reference', 'fused_sum', 'fused')
    }
    assert errors['fused_sum'] < 1.5 * errors['reference'], errors
    assert errors['fused'] < 1.5 * errors['reference'], errors


@pytest.mark.parametrize('path', ['fused_sum', 'fused'])
def test_amp_with_grad_scaler_learns(path):
    """The loss falls, and the scaler skips no step."""
    model, x = small_resnet().to(memory_format=torch.channels_last), images()
    x = x.to(memory_format=torch.channels_last)
    head = nn.Linear(512, 4).cuda()
    labels = torch.arange(8, device='cuda') % 4
    parameters = [*model.parameters(), *head.parameters()]
    sgd = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    # Before PyTorch 2.3 it is in torch.cuda.amp only.
    GradScaler = getattr(torch.amp, 'GradScaler', None) or torch.cuda.amp.GradScaler
    scaler = GradScaler(init_scale=1024.0)
    losses = []
    for _ in range(15):
        with force_path(path), torch.autocast('cuda', torch.float16):
            logits = head(model(x)[-1].mean(dim=(2, 3)))
            loss = nn.functional.cross_entropy(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        sgd.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    assert scaler.get_scale() == 1024.0


@pytest.mark.parametrize('cuda_graphs', [False, True])
@pytest.mark.parametrize('autocast', [None, torch.bfloat16])
def test_compiled_backbone(cuda_graphs, autocast):
    """As exact as eager mode, step after step, with one graph."""
    torch._dynamo.reset()
    model = small_resnet().to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    _, exact = loss_and_gradients(
        copy.deepcopy(model).double(), 'reference', x.double()
    )
    _, eager = loss_and_gradients(copy.deepcopy(model), 'fused', x, autocast)
    call = CompiledCall(model, [x.shape], cuda_graphs)
    model._compiled_call_impl = call
    for _ in range(4):  # CUDA graphs are recorded in the second step
        _, grads = loss_and_gradients(model, 'fused', x, autocast)
        assert distance(grads, exact) < 1.5 * distance(eager, exact) + 1e-4
        del grads
    assert model._compiled_call_impl is call


def test_compiled_backbone_with_images_of_any_size():
    torch._dynamo.reset()
    counters.clear()
    model = small_resnet()
    eager = copy.deepcopy(model)
    model._compiled_call_impl = CompiledCall(model)
    for height, width in [(64, 96), (96, 64), (64, 64), (128, 96), (160, 96)]:
        x = torch.randn(2, 3, height, width, device='cuda')
        _, exact = loss_and_gradients(eager, 'fused', x)
        _, grads = loss_and_gradients(model, 'fused', x)
        assert distance(grads, exact) < 5e-2  # float32: a ReLU may switch
    assert counters['stats']['unique_graphs'] == 1


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group(
        'nccl', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_sync_bn(one_process):
    """In one process SyncBN equals BN; RA after it takes the path 'fused_sum'."""
    model, x = small_resnet(), images()
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    loss, grads = loss_and_gradients(model, 'fused', x)
    sync_loss, sync_grads = loss_and_gradients(synced, 'fused', x)
    assert sync_loss.item() == pytest.approx(loss.item(), rel=1e-4)
    assert distance(sync_grads, grads) < 5e-2  # float32: a ReLU may switch


def test_choice():
    """Both modes are timed, and the model stays as it is."""
    torch._dynamo.reset()
    model, x = small_resnet(), images()
    before = copy.deepcopy(model.state_dict())
    choice = compile_if_faster(model, (x,))
    assert len(choice.seconds) == 2 and not choice.note
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
