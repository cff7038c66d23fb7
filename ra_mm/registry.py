"""Registries under the scope ``ra_mm``.

``type='ra_mm.RAResNet'`` imports this module and, on the first use of a
registry, the modules in its ``locations``: configs need no ``custom_imports``,
whichever toolbox runs them.
"""

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import Registry

from ra_mm import layers

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='ra_mm',
    locations=['ra_mm.engine.pickle_guard', 'ra_mm.backbones', 'ra_mm.heads'],
)
HOOKS = Registry(
    'hook',
    parent=MMENGINE_HOOKS,
    scope='ra_mm',
    locations=[
        'ra_mm.engine.pickle_guard',
        'ra_mm.engine.checkpoint_hook',
        'ra_mm.hooks',
    ],
)
RUNNERS = Registry(
    'runner', parent=MMENGINE_RUNNERS, scope='ra_mm', locations=['ra_mm.engine.runner']
)

# The layers need only PyTorch and do not know the registry.
for layer in layers.ATTENTIONS.values():
    MODELS.register_module(module=layer)
