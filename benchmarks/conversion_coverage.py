"""Measure which families of models ``ra_mm.convert(model, blocks='auto')`` converts.

For a small model of each family, it counts the modules that add feature maps by
watching the additions of a forward pass, converts the model, compares its outputs
at gamma = 0, and looks at the gradients of gamma. What has been measured stays in
the result file, so that the command can be repeated until all is done.
"""

import argparse
import contextlib
import functools
import importlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

import ra_mm
from ra_mm.conversion import AttentionBlock
from ra_mm.layers import MGRN

RESULTS = Path(__file__).parent / 'results' / 'conversion_coverage.json'
ADDITIONS = {Tensor.add, Tensor.__add__, Tensor.__iadd__, Tensor.add_, torch.add}
ADDITIONS |= {Tensor.__radd__}
SIZES = 64, 128, 224, 256
OPENMMLAB = 'mmpretrain', 'mmdet', 'mmseg'
PLUGIN = dict(cfg=dict(type='ContextBlock', ratio=0.25), position='after_conv3')
DCN = dict(dcn=dict(type='DCN'), stage_with_dcn=(False, True, True, True))
RESNETS = {
    'ResNet with plugins': dict(depth=50, plugins=[PLUGIN]),
    'ResNet with dcn': dict(depth=50, **DCN),
}
# The smallest of the families that have several sizes; of others, the first is taken.
SMALL = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny
convmixer_768_32 test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_s
cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn48b
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet
efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0
fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hgnetv2_b0 hrnet_w18_small
hiera_tiny_224 sam2_hiera_tiny iformer_t inception_next_atto lcnetv2_small
levit_conv_128s lowformer_b0 test_mambaout test_maxvit poolformer_s12 mixer_s32_224
lcnet_035 mobilenetv5_base mobilevit_xxs mvitv2_tiny nest_tiny test_nfnet pit_xs_224
nextvit_small pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9
res2net50_48w_2s resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42b
legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny test_vit
vit_tiny_r_s16_p8_224 test_vit_relpos samvit_base_patch16 vitamin_small_224
volo_d1_224 ese_vovnet19b_slim xception41 xcit_nano_12_p16_224
squeezenet1_1 mnasnet0_5 shufflenet_v2_x0_5 mobilenet_v3_small efficientnet_b0
convnext_tiny regnet_y_400mf resnet18 swin_t vit_b_16 maxvit_t
""".split()


class SumCounter(TorchFunctionMode):
    """Finds the modules that add two maps which come from one input of theirs.

    Feature maps are tensors with four dimensions. What comes from an input is found
    by following the graph of autograd, and a module counts if it has a convolution.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {m: name for name, m in model.named_modules()}
        self.stack = []
        self.sums = Counter()

    def __enter__(self) -> 'SumCounter':
        self.handles = [
            hooks.register_module_forward_pre_hook(self._enter_module),
            hooks.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*args)

    def _enter_module(self, module, args):
        inputs = [t for a in args for t in (a if isinstance(a, list | tuple) else [a])]
        tensors = [t for t in inputs if isinstance(t, Tensor) and t.grad_fn]
        self.stack.append((module, {t.grad_fn for t in tensors}))

    def _leave_module(self, module, args, output):
        self.stack.pop()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function in ADDITIONS and self.stack and self._is_residual(*args[:2]):
            self.sums[self.names[self.stack[-1][0]]] += 1
        return function(*args, **(kwargs or {}))

    def _is_residual(self, a, b):
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return False
        if not a.ndim == b.ndim == 4 or a.shape != b.shape or len(a) != 1:
            return False  # such as the heads of an attention
        module, inputs = self.stack[-1]
        has_conv = any(isinstance(m, nn.Conv2d) for m in module.modules())
        return has_conv and bool(_origins(a, inputs) & _origins(b, inputs))


def _origins(tensor, inputs):
    """The inputs that a tensor was computed from."""
    found, seen, todo = set(), set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node in inputs:
            found.add(node)
        elif node is not None and node not in seen:
            seen.add(node)
            todo += [n for n, _ in node.next_functions]
    return found


def measure(name: str, model: nn.Module) -> dict:
    """Convert a model and say what became of its sums."""
    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:  # some are initialized to zero
                p.add_(torch.randn_like(p), alpha=0.1)
    x, before, sums = _run(model)
    row = dict(model=name, input=list(x.shape), with_sum=dict(_kinds(model, sums)))
    if not sums:
        return row
    with contextlib.suppress(ValueError):  # then nothing is converted
        ra_mm.convert(model, blocks='auto', example=x.detach())
    blocks = [n for n, m in model.named_modules() if isinstance(m, AttentionBlock)]
    left = [name for name in sums if name not in blocks]
    reasons = []
    for cls in dict.fromkeys(type(model.get_submodule(name)) for name in left):
        try:
            own = [n for n in left if type(model.get_submodule(n)) is cls]
            ra_mm.convert(model, blocks=cls, names=own, example=x.detach())
        except ValueError as e:
            reasons.append(str(e))
    after = _flat(model(x))
    error = max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(after, before)
    )
    sum(y.square().mean() for y in after).backward()
    gates = [m.gamma.grad for m in model.modules() if isinstance(m, MGRN)]
    return row | dict(
        converted=dict(_kinds(model, blocks)),
        left=dict(_kinds(model, left)),
        reasons=reasons,
        error=error,
        gates=len(gates),
        gates_with_gradient=sum(g is not None and bool(g.any()) for g in gates),
    )


def _run(model):
    """An input that the model accepts, its outputs, and where they were added."""
    for size in SIZES:
        x = torch.randn(1, 3, size, size, requires_grad=True) * 1
        counter = SumCounter(model)
        try:
            with counter:
                return x, _flat(model(x)), counter.sums
        except Exception as e:  # too small, or not the size that it is made for
            error = e
    raise error


def _kinds(model, names):
    found = map(model.get_submodule, names)
    return Counter(getattr(m, 'plain_class', type(m)).__name__ for m in found)


def _flat(out):
    if isinstance(out, Tensor):
        return [out]
    return [
        t for o in (out.values() if isinstance(out, dict) else out) for t in _flat(o)
    ]


# The families: a name, and a function that returns a model's name and builds it


def find_families(library: str) -> dict:
    if library == 'timm':
        import timm

        names = {m: timm.list_models(module=m) for m in timm.list_modules()}
        make = timm.create_model
    elif library == 'torchvision':
        from torchvision import models

        names = {}
        for name in models.list_models(models):
            module = models.get_model_builder(name).__module__.rpartition('.')[2]
            names.setdefault(module, []).append(name)
        make = functools.partial(models.get_model, weights=None)
    else:
        backbones = importlib.import_module(f'{library}.models.backbones')
        builds = {n: (getattr(backbones, n), {}) for n in backbones.__all__}
        if library == 'mmdet':
            builds |= {n: (backbones.ResNet, kw) for n, kw in RESNETS.items()}
        return {n: functools.partial(_openmmlab, *b) for n, b in builds.items()}
    small = {m: [n for n in own if n in SMALL] or own for m, own in names.items()}
    return {
        m: lambda name=own[0]: (name, make(name)) for m, own in sorted(small.items())
    }


def _openmmlab(cls, given):
    """Build a backbone with its defaults, or with its first depth or architecture."""
    zoo = getattr(cls, 'arch_zoo', None) or getattr(cls, 'arch_settings', {})
    first = next(iter(zoo), 0)
    choices = ({}, dict(depth=18), dict(depth=50), dict(depth=first), dict(arch=first))
    for choice in choices:
        try:
            kwargs = choice | given
            model = cls(**kwargs)
        except Exception as e:
            error = e
        else:
            arguments = ', '.join(f'{k}={v!r}' for k, v in kwargs.items())
            return f'{cls.__name__}({arguments})', model
    raise error


def table(rows: dict) -> str:
    """The families with sums of feature maps, as a table in Markdown."""
    lines = [
        '| family | model | blocks converted | left out |',
        '| --- | --- | --- | --- |',
    ]
    for family, row in rows.items():
        if row.get('with_sum'):
            total = Counter(row['converted']) + Counter(row['left'])
            counts = [
                f'{row["converted"].get(kind, 0)} of {n} {kind}'
                for kind, n in total.items()
            ]
            why = '; '.join(reason.partition('. ')[0] for reason in row['reasons'])
            model = row['model'].partition('(')[0]
            lines.append(f'| {family} | `{model}` | {", ".join(counts)} | {why} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('library', choices=['timm', 'torchvision', *OPENMMLAB])
    parser.add_argument('--families', nargs='+', help='only these; measure them anew')
    parser.add_argument('--seconds', type=float, default=240, help='begin none after')
    parser.add_argument('--out', type=Path, default=RESULTS)
    parser.add_argument('--table', action='store_true', help='print it, run nothing')
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    rows = results.setdefault(args.library, {})
    if args.table:
        return print(table(rows))
    families = find_families(args.library)
    for family in args.families or [f for f in families if f not in rows]:
        if time.monotonic() > end:
            return print('not finished: run the same command again')
        try:
            rows[family] = measure(*families[family]())
        except Exception as e:
            rows[family] = dict(not_run=f'{type(e).__name__}: {e}')
        print(family, json.dumps(rows[family]), flush=True)
        args.out.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
    print('finished')


if __name__ == '__main__':
    main()
