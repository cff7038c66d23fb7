"""channels_last from the first iteration on, with the same values."""

import torch
from mmengine.hooks import Hook

from ra_mm.hooks import ChannelsLastHook


def test_layout(run, make_model):
    trained, layouts = [], set()
    for hook in (Hook(), ChannelsLastHook()):
        torch.manual_seed(0)
        model = make_model()
        model.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        run(hook, epochs=1, model=model)
        trained.append(model.state_dict())
        y = model.conv(torch.ones(2, 3, 4, 4))
        layouts.add(y.is_contiguous(memory_format=torch.channels_last))
    assert layouts == {False, True}
    torch.testing.assert_close(*trained)
