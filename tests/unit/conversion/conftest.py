import pytest
import torch
from torchvision.models import resnet


@pytest.fixture
def make_resnet():
    """Makes a small torchvision ResNet of 2 + 1 bottlenecks with 4 classes."""

    def make():
        torch.manual_seed(0)
        model = resnet.ResNet(resnet.Bottleneck, [2, 1, 1, 1], num_classes=4)
        model.layer3 = model.layer4 = torch.nn.Identity()
        model.fc = torch.nn.Linear(512, 4)
        for m in model.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(m.weight, 0.5, 1.5)
                torch.nn.init.normal_(m.bias, std=0.1)
        return model

    return make


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
